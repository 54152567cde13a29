#!/bin/sh
# SPDX-License-Identifier: MIT
# Is QEMU here? If not, root on Debian gets it; everybody else is told what to do (exit code 4).
set -eu

if command -v qemu-system-i386 >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "qemu-system-i386 is missing: installing Debian's qemu-system-x86"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet --quiet
    apt-get install --quiet --quiet --yes --no-install-recommends qemu-system-x86
    exit 0
fi
echo "qemu-system-i386 is missing: install it (Debian: apt-get install qemu-system-x86)" >&2
exit 4
