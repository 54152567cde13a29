#!/bin/sh
# SPDX-License-Identifier: MIT
# Where do kernels that are not Linux come from? From Debian 12's archive: GNU Mach and its build for
# Xen, each with and without symbols, GRUB's kernel and U-Boot. This leaves them, uncompressed, in
# SCRATCH/debian-foreign.
#
# usage: foreign.sh SCRATCH
set -eu
scratch=$(realpath "$1")

# shellcheck source=tests/kernels/packages.sh
. "$(dirname "$0")/packages.sh"
out=$scratch/debian-foreign
cd "$scratch/apt"
mkdir "$out"

for kind in "" -xen; do
    for twin in "" -dbg; do
        unpack "gnumach-image-1.8$kind-486$twin" "" './boot/gnumach-*.gz'
        gunzip -c boot/gnumach-*.gz > "$out/gnumach$kind$twin"
        rm boot/gnumach-*.gz
    done
done
unpack grub-pc-bin "" ./usr/lib/grub/i386-pc/kernel.img
mv usr/lib/grub/i386-pc/kernel.img "$out/grub"
own apt-get download u-boot-qemu
dpkg-deb --fsys-tarfile ./u-boot-qemu_*.deb | tar -x ./usr/lib/u-boot/qemu-x86/uboot.elf
rm ./u-boot-qemu_*.deb
mv usr/lib/u-boot/qemu-x86/uboot.elf "$out/u-boot"
