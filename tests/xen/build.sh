#!/bin/sh
# SPDX-License-Identifier: MIT
# How is Xen built for the tests? The hypervisor alone, with the options of FRAGMENT: this leaves xen
# (what QEMU's -kernel and GRUB's multiboot take) and config in OUT.
#
# usage: build.sh SOURCE FRAGMENT OUT
set -eu
source=$(realpath "$1")
fragment=$(realpath "$2")
out=$(realpath "$3")

cd "$source/xen"
make --silent defconfig > "$out/log" 2>&1
cat "$fragment" >> .config
make --silent olddefconfig >> "$out/log" 2>&1
if ! make -j"$(nproc)" >> "$out/log" 2>&1; then
    tail -n 20 "$out/log" >&2
    exit 1
fi
cp xen "$out/xen"
cp .config "$out/config"
rm "$out/log"
