#!/bin/sh
# SPDX-License-Identifier: MIT
# Where does a kernel of the corpus come from that Debian built? From one VERSION of a package IMAGE
# of a SUITE, and of its debug package if DEBUG is not empty: this leaves vmlinuz, config and modules
# in OUT, and vmlinux (the debug twin) and System.map.
#
# usage: package.sh SCRATCH SUITE IMAGE VERSION DEBUG OUT
set -eu
scratch=$(realpath "$1")
SUITES=$2
image=$3
version=$4
debug=$5
out=$(realpath "$6")

# shellcheck source=tests/kernels/packages.sh
. "$(dirname "$0")/../kernels/packages.sh"
cd "$scratch/apt"
unpack_image "$image" "$version" "$out"
[ -z "$debug" ] || unpack_debug "$image" "$version" "$out"
