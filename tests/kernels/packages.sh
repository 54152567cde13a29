# SPDX-License-Identifier: MIT
# How do scripts get packages of Debian 12 without root? To be sourced, with SCRATCH a directory.
# Package lists of our own, for i386 too: the system's stay as they are, and nothing is installed.

mkdir -p "$scratch/apt/lists/partial" "$scratch/apt/archives/partial"

# usage: own COMMAND ARGUMENT...: apt-get or apt-cache on our lists
own() {
    command=$1
    shift
    "$command" -q -o APT::Architectures::="$(dpkg --print-architecture)" \
        -o APT::Architectures::=i386 -o Dir::State::Lists="$scratch/apt/lists" \
        -o Dir::State::Status=/dev/null -o Dir::Cache="$scratch/apt" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

# A mirror in the middle of an update may lack one list; a download needs only its own.
own apt-get update || echo "$0: going on with the package lists that came" >&2
