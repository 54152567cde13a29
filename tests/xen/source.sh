#!/bin/sh
# SPDX-License-Identifier: MIT
# Where does the source of Xen come from? Debian's source package, from the system's own mirror: this
# leaves it in SCRATCH/xen, and its version in SCRATCH/version.
#
# usage: source.sh SCRATCH
set -eu
scratch=$(realpath "$1")

SUITES=bookworm
KIND=deb-src
# shellcheck source=tests/kernels/packages.sh
. "$(dirname "$0")/../kernels/packages.sh"
cd "$scratch"
own apt-get source --only-source --download-only xen
dpkg-source --no-check --extract xen_*.dsc xen
sed -n 's/^Version: //p' xen_*.dsc > version
rm -f xen_*
