#!/bin/sh
# SPDX-License-Identifier: MIT
# How is one test kernel built? Everything is off but what FRAGMENT says; OUT gets config, vmlinux,
# bzImage and System.map. JOBS says how many compilers run at once (all processors), COMPRESSIONS
# which bzImage.NAME are made besides, of the same vmlinux. With MODULES_ONLY, OUT gets config and
# modules instead, which is what a kernel has below /lib/modules/RELEASE.
#
# For sources and compilers that are not the system's: MAKE_ARGUMENTS are given to make (LLVM=-14),
# WHERE_KNOWN leaves out lines of FRAGMENT whose option no Kconfig file of SOURCE has, KEEP names
# files of the build that go into OUT as well, where they lay, if the build makes them.
#
# usage: build.sh SOURCE FRAGMENT OUT
set -eu
source=$(realpath "$1")
fragment=$(realpath "$2")
out=$(realpath "$3")
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT

# Neither time nor host go into the kernel.
export KBUILD_BUILD_TIMESTAMP='2025-01-01 00:00:00 +0000'
export KBUILD_BUILD_USER=vmipatch
export KBUILD_BUILD_HOST=vmipatch
export KBUILD_BUILD_VERSION=1
# shellcheck disable=SC2086  # a list of arguments
kernel() { make -s -C "$source" ARCH=i386 O="$objects" ${MAKE_ARGUMENTS:-} "$@"; }

# Only x86 and what is outside of arch/ defines options of a kernel for i386.
if [ "${WHERE_KNOWN:-}" ]; then
    find "$source" -path "$source/arch/*" ! -path "$source/arch/x86*" ! -path "$source/arch/Kconfig" \
        -prune -o -name 'Kconfig*' -exec \
        sed -n 's/^[[:space:]]*\(menu\)\{0,1\}config[[:space:]]*\([A-Z0-9_a-z]*\)[[:space:]]*$/\2/p' {} + |
        sort -u > "$objects/options"
    sed 's/^# CONFIG_\([A-Za-z0-9_]*\) is not set$/& \1/; s/^CONFIG_\([A-Za-z0-9_]*\)=.*/& \1/' \
        "$fragment" | awk 'NR == FNR { known[$1]; next }
            /^(CONFIG_|# CONFIG_.* is not set )/ { if (!($NF in known)) next; sub(/ [^ ]*$/, "") }
            { print }' "$objects/options" - > "$objects/fragment"
    fragment=$objects/fragment
fi

kernel KCONFIG_ALLCONFIG="$fragment" allnoconfig
# Kconfig drops silently what it does not know or what something else forbids.
grep -E '^(CONFIG_|# CONFIG_.* is not set$)' "$fragment" | while read -r line; do
    if ! grep -q -x -F -e "$line" "$objects/.config"; then
        echo "build.sh: this source or compiler does not allow: $line" >&2
        exit 1
    fi
done
if [ "${CONFIGURE_ONLY:-}" ]; then
    cp "$objects/.config" "$out/config"
    exit
fi
if [ "${MODULES_ONLY:-}" ]; then
    # Without the kernel itself its exports are unknown.
    kernel -j"${JOBS:-$(nproc)}" KBUILD_MODPOST_WARN=1 modules
    mkdir -p "$out/modules/kernel"
    (cd "$objects" && find . -name '*.ko' -exec cp --parents -t "$out/modules/kernel" {} +)
    cp "$objects/.config" "$out/config"
    exit
fi
kernel -j"${JOBS:-$(nproc)}" bzImage
cp "$objects/.config" "$out/config"
cp "$objects/vmlinux" "$objects/System.map" "$objects/arch/x86/boot/bzImage" "$out/"
for file in ${KEEP:-}; do
    [ ! -e "$objects/$file" ] || (cd "$objects" && cp --parents "$file" "$out/")
done

for name in ${COMPRESSIONS:-}; do
    for other in GZIP BZIP2 LZMA XZ LZO LZ4 ZSTD; do
        "$source/scripts/config" --file "$objects/.config" --disable "KERNEL_$other"
    done
    "$source/scripts/config" --file "$objects/.config" --enable "KERNEL_$(echo "$name" | tr a-z A-Z)"
    kernel olddefconfig
    kernel -j"${JOBS:-$(nproc)}" bzImage
    cmp "$objects/vmlinux" "$out/vmlinux"
    cp "$objects/arch/x86/boot/bzImage" "$out/bzImage.$name"
done
