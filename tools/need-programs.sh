#!/bin/sh
# SPDX-License-Identifier: MIT
# Are the programs here that tests run? Root on Debian gets what is missing; everybody else is told
# what to do (exit code 4).
#
# usage: need-programs.sh PROGRAM:PACKAGE... (a PROGRAM with slashes is any file or directory)
set -eu

missing=
for pair in "$@"; do
    command -v "${pair%%:*}" > /dev/null || [ -e "${pair%%:*}" ] || missing="$missing ${pair#*:}"
done
if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then
    echo "installing Debian's$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet --quiet
    # shellcheck disable=SC2086  # a list of packages
    apt-get install --quiet --quiet --yes --no-install-recommends $missing
    exit 0
fi
echo "please install (Debian: apt-get install)$missing" >&2
exit 4
