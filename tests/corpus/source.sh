#!/bin/sh
# SPDX-License-Identifier: MIT
# Where do the sources of the corpus come from? From one VERSION of a package linux-source-X of a
# SUITE: this leaves the tree in OUT.
#
# usage: source.sh SCRATCH SUITE PACKAGE VERSION OUT
set -eu
scratch=$(realpath "$1")
SUITES=$2
package=$3
version=$4
out=$(realpath "$5")

# shellcheck source=tests/kernels/packages.sh
. "$(dirname "$0")/../kernels/packages.sh"
cd "$scratch/apt"
own apt-get download "$package=$version"
dpkg-deb --fsys-tarfile ./"$package"_*.deb | tar -x "./usr/src/$package.tar.xz"
rm ./"$package"_*.deb
tar -x -C "$scratch" -f "usr/src/$package.tar.xz"
mv "$scratch/$package" "$out"
