# SPDX-License-Identifier: MIT
"""Is the System.map of `rewrite` the one that the kernel's build would have written?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import KernelFinder
from tests.support.absent import program
from tests.support.elfbuilder import DATA, RODATA, STB_LOCAL, TEXT, ElfBuilder
from vmipatch.files.system_map import system_map
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STB_WEAK, STT_FILE, STT_FUNC, STT_OBJECT, STT_SECTION

TEXT_VA, RODATA_VA, DATA_VA, BSS_VA = 0xC1000000, 0xC1001000, 0xC1002000, 0xC1003000
EXPORTED = ("__crc_x", "__kstrtab_x", "__kstrtabns_x")


def _kernel(banner: bytes, *names: str) -> ElfImage:
    """A kernel with one symbol of each sort, and with `names` in its read-only data."""
    builder = ElfBuilder()
    builder.section(".text", TEXT_VA, bytes(64), TEXT)
    builder.section(".rodata", RODATA_VA, banner.ljust(128, b"\0"), RODATA)
    builder.section(".data", DATA_VA, bytes(64), DATA)
    builder.nobits(".bss", BSS_VA, 64)
    builder.symbol("linux_banner", RODATA_VA, kind=STT_OBJECT)
    builder.symbol("z_first", TEXT_VA, kind=STT_FUNC, binding=STB_LOCAL)
    builder.symbol("a_second", TEXT_VA + 4, kind=STT_FUNC)
    builder.symbol("T_before", TEXT_VA + 4, kind=STT_FUNC, binding=STB_LOCAL)
    builder.symbol("weak", TEXT_VA + 8, kind=STT_FUNC, binding=STB_WEAK)
    builder.symbol("weak_object", DATA_VA, kind=STT_OBJECT, binding=STB_WEAK)
    builder.symbol("counter", DATA_VA + 4, kind=STT_OBJECT)
    builder.symbol("room", BSS_VA, kind=STT_OBJECT, binding=STB_LOCAL)
    builder.symbol("main.c", 0, kind=STT_FILE, binding=STB_LOCAL, absolute=True)
    builder.symbol("a_section", TEXT_VA, kind=STT_SECTION, binding=STB_LOCAL)
    builder.symbol("physical", 0x1000000, absolute=True)
    builder.symbol("offset", 0x18, binding=STB_LOCAL, absolute=True)
    for name in names:
        builder.symbol(name, RODATA_VA + 16, binding=STB_LOCAL)
    return builder.image()


def _names(image: ElfImage) -> set[str]:
    return {line.split(" ", 2)[2] for line in system_map(image).splitlines()}


def test_letters_and_order_are_those_of_nm() -> None:
    text = system_map(_kernel(b"Linux version 6.1.176-x (a@b) #1\n"))
    assert text.splitlines() == [
        "01000000 A physical",
        "c1000000 t z_first",
        "c1000004 t T_before",  # by name, not by letter
        "c1000004 T a_second",
        "c1000008 W weak",
        "c1001000 R linux_banner",
        "c1002000 V weak_object",
        "c1002004 D counter",
        "c1003000 b room",
    ]


@pytest.mark.parametrize(
    ("release", "kept"),
    [
        # scripts/mksysmap of each: `grep -v '\( [aNUw] \)\|\(__crc_\)\|\( \$[adt]\)\|\( \.L\)'`
        ("2.6.32", {"__kstrtab_x", "__kstrtabns_x", "$x", "L0", "x_veneer", "__kcfi_typeid_x"}),
        ("5.10.0", {"__kstrtab_x", "__kstrtabns_x", "$x", "L0", "x_veneer", "__kcfi_typeid_x"}),
        ("6.1.0", {"x__crc_x", "x_veneer", "__kcfi_typeid_x"}),
        ("6.12.1", {"x__crc_x"}),
    ],
)
def test_each_release_leaves_out_what_its_script_does(release: str, kept: set[str]) -> None:
    some = (
        *EXPORTED, "x__crc_x", "$x", "$d", ".LC0", "L0", "x_veneer", "__kcfi_typeid_x", "own"
    )  # fmt: skip
    image = _kernel(b"Linux version %s-1 (a@b) #1\n" % release.encode(), *some)
    assert _names(image) & set(some) == kept | {"own"}


def test_kernel_without_a_banner_is_taken_for_a_new_one() -> None:
    image = _kernel(b"Another system 6.1 (a@b)\n", *EXPORTED)
    assert not _names(image) & set(EXPORTED)


def test_release_is_told_by_the_banner_and_not_by_other_text() -> None:
    other = b"Linux version 6.4 or newer\0Linux version 5.10.0-44-686 (a@b) #1\n"
    assert set(EXPORTED[1:]) <= _names(_kernel(other, *EXPORTED))


def _nm(path: Path) -> Iterator[str]:
    """nm's own list, and of it what no release's script leaves out."""
    done = subprocess.run([program("nm"), "-n", path], capture_output=True, text=True, check=True)
    left_out = (".L", "__crc_", "__kstrtab", "$")
    for line in done.stdout.splitlines():
        _, letter, name = line.rsplit(" ", 2)
        if letter not in "aNUw" and not name.startswith(left_out):
            yield line


def test_nm_lists_the_same_symbols_of_the_example_kernel(guest: Path) -> None:
    lines = system_map(ElfImage.parse(guest.read_bytes(), "guest")).splitlines()
    assert sorted(lines) == sorted(_nm(guest))


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["tiny", "smp-pae"])
def test_map_of_a_built_kernel_is_the_one_of_its_build(name: str, kernel: KernelFinder) -> None:
    path = kernel(name)
    built = path.with_name("System.map")
    expected = (
        built.read_text().splitlines() if built.is_file() else list(_nm(path))
    )  # the same without the script
    assert system_map(ElfImage.parse(path.read_bytes(), name)).splitlines() == expected


@pytest.mark.kernels
def test_rewritten_kernel_has_the_same_names_and_its_own(
    kernel: KernelFinder, rewritten: KernelFinder
) -> None:
    before = system_map(ElfImage.parse(kernel("tiny").read_bytes(), "before"))
    after = system_map(ElfImage.parse(rewritten("tiny").read_bytes(), "after"))
    pairs = [
        sorted(line.split(" ", 1)[1] for line in text.splitlines()) for text in (before, after)
    ]
    added = list(pairs[1])
    for pair in pairs[0]:
        added.remove(pair)  # raises where one is lost
    assert added
    assert all(pair.split()[1].startswith("__vmi_") for pair in added)
