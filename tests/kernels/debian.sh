#!/bin/sh
# SPDX-License-Identifier: MIT
# Where does one of Debian 12's own i386 kernels come from? From the newest linux-image-6.1 of a
# FLAVOUR (686, 686-pae) and its debug package: this leaves vmlinuz, vmlinux (the debug twin, with
# symbols and relocations), config, System.map and modules in SCRATCH/debian-FLAVOUR.
#
# usage: debian.sh SCRATCH FLAVOUR
set -eu
scratch=$(realpath "$1")
flavour=$2

# shellcheck source=tests/kernels/packages.sh
. "$(dirname "$0")/packages.sh"
cd "$scratch/apt"

image=$(own apt-cache show --no-all-versions "linux-image-$flavour:i386" |
    sed -n "s/^Depends:.*\(linux-image-6\.1\.[^ ,]*-$flavour\)\( .*\)*$/\1/p")
if [ -z "$image" ]; then
    echo "debian.sh: the package lists have no linux-image-$flavour of 6.1: are they Debian 12's?" >&2
    exit 1
fi
out=$scratch/debian-$flavour
unpack_image "$image" "" "$out"
unpack_debug "$image" "" "$out"
