#!/bin/sh
# SPDX-License-Identifier: MIT
# Where do the sources come from? From Debian 12: this leaves its kernel source in SCRATCH/linux and
# a static i386 busybox in SCRATCH/busybox.
#
# usage: prepare.sh SCRATCH
set -eu
scratch=$(realpath "$1")

missing=
for tool in gcc:gcc make:make flex:flex bison:bison bc:bc xz:xz-utils dpkg-deb:dpkg perl:perl \
    bzip2:bzip2 lzop:lzop lz4:lz4 zstd:zstd; do
    command -v "${tool%%:*}" > /dev/null || missing="$missing ${tool#*:}"
done
# The kernel's own tools are programs of the host, which the compiler alone does not suffice for.
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
if [ -n "$missing" ] && [ "$(id -u)" -eq 0 ]; then
    apt-get update -q
    # shellcheck disable=SC2086  # a list of packages
    apt-get install -q -y --no-install-recommends $missing
elif [ -n "$missing" ]; then
    echo "prepare.sh: please install:$missing" >&2
    exit 1
fi
if ! echo 'int main(void) { return 0; }' | gcc -include stdio.h -x c -o /dev/null - 2> /dev/null; then
    echo "prepare.sh: this gcc does not make programs of the host: install libc6-dev" >&2
    exit 1
fi
if ! echo 'int x;' | gcc -m32 -x c -c -o /dev/null - 2> /dev/null; then
    echo "prepare.sh: this gcc does not make i386 code (gcc -m32)" >&2
    exit 1
fi

# shellcheck source=tests/kernels/packages.sh
. "$(dirname "$0")/packages.sh"
cd "$scratch/apt"
own apt-get download linux-source-6.1 busybox-static:i386
for package in ./*.deb; do
    dpkg-deb -x "$package" unpacked
done
tar -xf unpacked/usr/src/linux-source-6.1.tar.xz
mv linux-source-6.1 "$scratch/linux"
mv unpacked/bin/busybox "$scratch/busybox"
cd "$scratch"
rm -r apt
