#!/bin/sh
# SPDX-License-Identifier: MIT
# Is Chromium here? If not, root on Debian gets it; everybody else is told what to do (exit code 4).
set -eu

if command -v chromium >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "chromium is missing: installing Debian's chromium"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet --quiet
    apt-get install --quiet --quiet --yes --no-install-recommends chromium
    exit 0
fi
echo "chromium is missing: install it (Debian: apt-get install chromium)" >&2
exit 4
