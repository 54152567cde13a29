# SPDX-License-Identifier: MIT
"""Which System.map would the kernel's own build write? `nm -n` through its scripts/mksysmap.

The letters are those of nm(1) for ELF: weakness comes before the section, and a section's flags
before its name. Which names the script leaves out depends on the release, which the kernel's banner
tells; nothing else in a kernel says it.

Source: binutils, bfd/syms.c and nm(1); scripts/mksysmap of Linux 2.6.16 to 6.12.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from vmipatch.image.banner import numbers_of, release_of
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import (
    SHN_ABS,
    SHN_COMMON,
    SHN_UNDEF,
    STB_LOCAL,
    STB_WEAK,
    STT_COMMON,
    STT_FILE,
    STT_OBJECT,
    STT_SECTION,
)
from vmipatch.image.types import Section, SectionFlag, SectionKind

Release = tuple[int, int]

DROPPED_LETTERS: Final = frozenset("aNUwv")
"""Local absolute, debugging and undefined symbols. Scripts name no `v`, an undefined weak object;
an ELF file without undefined references has none."""


@dataclass(frozen=True, slots=True)
class LeftOutNames:
    """The names that mksysmap leaves out from a release on, until the next row."""

    since: Release
    names: re.Pattern[str]


LEFT_OUT: Final = (
    LeftOutNames((0, 0), re.compile(r".*__crc_|\$[adt]|\.L")),
    # 6.1: "kallsyms: ignore __kstrtab_* and __kstrtabns_* symbols".
    LeftOutNames((6, 1), re.compile(r"\$|\.L|__crc_|__kstrtab_|__kstrtabns_|L0$")),
    # 6.4: "scripts/kallsyms: move compiler-generated symbol patterns to mksysmap".
    LeftOutNames(
        (6, 4),
        re.compile(
            r"\$|\.L|__crc_|__kstrtab_|__kstrtabns_|L0$|_SDA2?_BASE_$"
            r"|__efistub_|(__pi_|__kvm_nvhe_)(\$|\.L|__kcfi_typeid_)|__kcfi_typeid_"
            r"|__[0-9A-Za-z]*Thunk_|.*(_from_arm|_from_thumb|_veneer)$"
            r"|.*\.(long|plt)_branch\."
        ),
    ),
)
"""By release, ascending. A pattern is matched from the beginning of a name."""


def system_map(image: ElfImage) -> str:
    """The System.map of a kernel: address, letter, name; by address, then by name.

    Names and letters are those of the kernel's build, plus what the rewrite added.
    """
    left_out, infos = (
        patterns(numbers_of(release_of(image))),
        image.symbols.entries["info"].tolist(),
    )
    rows = []
    for symbol in image.symbols:
        if not symbol.name or symbol.kind in (STT_SECTION, STT_FILE):
            continue
        letter = letter_of(image, infos[symbol.index], symbol.section)
        if letter not in DROPPED_LETTERS and not left_out.match(symbol.name):
            rows.append((symbol.va, symbol.name, letter))
    return "".join(f"{va:08x} {letter} {name}\n" for va, name, letter in sorted(rows))


def patterns(release: Release | None) -> re.Pattern[str]:
    """The names that mksysmap of `release` leaves out; that of the newest known for None."""
    if release is None:
        return LEFT_OUT[-1].names
    return next(row.names for row in reversed(LEFT_OUT) if row.since <= release)


def letter_of(image: ElfImage, info: int, shndx: int) -> str:
    """The letter that nm prints for a symbol with this st_info and st_shndx."""
    binding, kind = info >> 4, info & 15
    is_object = kind in (STT_OBJECT, STT_COMMON)
    if shndx == SHN_COMMON:
        return "C"
    if shndx == SHN_UNDEF:
        return "U" if binding != STB_WEAK else "v" if is_object else "w"
    if binding == STB_WEAK:
        return "V" if is_object else "W"
    letter = "a" if shndx >= SHN_ABS else section_letter(image.sections[shndx])
    return letter if binding == STB_LOCAL else letter.upper()


def section_letter(section: Section) -> str:
    """The small letter of what is in a section, by its flags alone."""
    if section.flags & SectionFlag.EXEC:
        return "t"
    if not section.flags & SectionFlag.ALLOC:  # the linker's own, such as an empty .smp_locks
        if section.is_debug:
            return "N"
        return "?" if section.flags & SectionFlag.WRITE else "n"
    if section.kind is SectionKind.NOBITS:
        return "b"
    return "d" if section.flags & SectionFlag.WRITE else "r"
