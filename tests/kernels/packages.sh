# SPDX-License-Identifier: MIT
# How do scripts get Debian's packages without root? To be sourced, with SCRATCH a directory. Package
# lists of our own, for i386 too: the system's stay as they are, and nothing is installed. SUITES
# names the suites to look at, on the system's mirror and signed by its keys; without it, those that
# the system has. KIND is deb-src where sources are wanted.

mkdir -p "$scratch/apt/lists/partial" "$scratch/apt/archives/partial"

# usage: own COMMAND ARGUMENT...: apt-get or apt-cache on our lists
own() {
    command=$1
    shift
    "$command" -q -o APT::Architectures::="$(dpkg --print-architecture)" \
        -o APT::Architectures::=i386 -o Dir::State::Lists="$scratch/apt/lists" \
        -o Dir::State::Status=/dev/null -o Dir::Cache="$scratch/apt" \
        -o APT::Sandbox::User="$(id -un)" ${SUITES:+-o} ${SUITES:+Dir::Etc::sourceparts=/dev/null} \
        ${SUITES:+-o} ${SUITES:+Dir::Etc::sourcelist="$scratch/apt/sources.list"} "$@"
}

# usage: unpack PACKAGE VERSION PATTERN...: only these files, for a debug package unpacks to
# gigabytes; the newest version if VERSION is empty
unpack() {
    package=$1
    version=$2
    shift 2
    own apt-get download "$package:i386${version:+=$version}"
    dpkg-deb --fsys-tarfile ./"$package"_*.deb | tar -x --wildcards "$@"
    rm ./"$package"_*.deb
}

# usage: unpack_image IMAGE VERSION OUT: a kernel as Debian installs it: vmlinuz, config, modules
unpack_image() {
    release=${1#linux-image-}
    unpack "$1" "$2" "./boot/vmlinuz-$release" "./boot/config-$release" "./lib/modules/$release"
    mkdir "$3"
    mv "boot/vmlinuz-$release" "$3/vmlinuz"
    mv "boot/config-$release" "$3/config"
    mv "lib/modules/$release" "$3/modules"
}

# usage: unpack_debug IMAGE VERSION OUT: its debug twin, and System.map; the image package's is a stub
unpack_debug() {
    release=${1#linux-image-}
    unpack "$1-dbg" "$2" "./usr/lib/debug/boot/*-$release"
    mv "usr/lib/debug/boot/vmlinux-$release" "$3/vmlinux"
    mv "usr/lib/debug/boot/System.map-$release" "$3/System.map"
}

if [ "${SUITES:-}" ]; then
    # The system's own mirror, and the keys it trusts, which are those of neighbouring suites too.
    # shellcheck disable=SC2016  # a field of apt's
    mirror=$(apt-get indextargets --format '$(REPO_URI)' "Identifier: Packages" \
        "Codename: bookworm" | head -n 1)
    if [ -z "$mirror" ]; then
        echo "$0: apt has no source for bookworm: is this Debian 12?" >&2
        exit 1
    fi
    for suite in $SUITES; do
        echo "${KIND:-deb} $mirror $suite main"
    done > "$scratch/apt/sources.list"
fi

# A mirror in the middle of an update may lack one list; a download needs only its own.
own apt-get update || echo "$0: going on with the package lists that came" >&2
