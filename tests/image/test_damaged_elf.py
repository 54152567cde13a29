# SPDX-License-Identifier: MIT
"""Does damage to a kernel file end in one clear error, whatever was hit?"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from functools import cache

import pytest

from examples.guest.build import build
from vmipatch.errors import ExitCode, InputNotUnderstood, VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.types import SectionKind
from vmipatch.image.wrap import wrap
from vmipatch.rewrite import rewrite
from vmipatch.scan import scan
from vmipatch.verify.static import check_static

SHT_GNU_SFRAME, SHT_LOUSER, PT_GNU_SFRAME = 0x6FFFFFF4, 0x80000000, 0x6474E554
EXTREMES = (0, 1, 4, 0xFF, 0x1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
HEADERS = ("ELF header", "program headers", "section headers", "section headers", ".symtab")
"""Where every second damage goes: most of the file is code and data that may hold anything."""


@cache
def _guest() -> ElfImage:
    return ElfImage.parse(build(), "guest")


@cache
def _rewritten() -> ElfImage:
    return ElfImage.parse(rewrite(_guest()).data, "rewritten")


class Damaged:
    """A copy of a file, to be changed in its headers."""

    def __init__(self, image: ElfImage) -> None:
        self.image, self.data = image, bytearray(image.data)
        self._phoff, self._shoff = struct.unpack_from("<II", image.data, 28)

    @property
    def regions(self) -> dict[str, tuple[int, int]]:
        """Half-open ranges of the file, by what they hold."""
        sections = [s for s in self.image.sections if s.has_bytes and s.size >= 4]
        return {
            "ELF header": (0, 52),
            "program headers": (self._phoff, self._phoff + 32 * len(self.image.segments)),
            "section headers": (self._shoff, self._shoff + 40 * len(self.image.sections)),
        } | {s.name: (s.off, s.off + s.size) for s in sections}

    def section_word(self, name: str, field: int, value: int) -> None:
        """Overwrite word number `field` of a section header."""
        index = self.image.section_by_name[name].index
        struct.pack_into("<I", self.data, self._shoff + 40 * index + 4 * field, value)

    def segment_word(self, index: int, field: int, value: int) -> None:
        """Overwrite word number `field` of a program header."""
        struct.pack_into("<I", self.data, self._phoff + 32 * index + 4 * field, value)

    def table_word(self, name: str, field: int, value: int) -> None:
        """Overwrite word number `field` of a section's contents."""
        struct.pack_into("<I", self.data, self.image.section_by_name[name].off + 4 * field, value)

    def parse(self) -> ElfImage:
        """The file as it is now."""
        return ElfImage.parse(bytes(self.data), "damaged")


def _mutant(image: ElfImage, seed: int) -> bytes:
    """The file cut off, or with one to four of its words or bytes overwritten."""
    dice, damaged = random.Random(seed), Damaged(image)
    if dice.random() < 0.1:
        return image.data[: dice.randrange(len(image.data))]
    regions = damaged.regions
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        start, end = regions[dice.choice(HEADERS if dice.random() < 0.5 else tuple(regions))]
        if dice.random() < 0.5:
            at = start + dice.randrange((end - start) // 4) * 4
            value = dice.choice((*EXTREMES, dice.getrandbits(32), dice.getrandbits(8)))
            struct.pack_into("<I", damaged.data, at, value)
        else:
            damaged.data[dice.randrange(start, end)] = dice.getrandbits(8)
    return bytes(damaged.data)


def _check(image: ElfImage) -> None:
    check_static(_guest(), image)


def _wrap(image: ElfImage) -> None:
    wrap(image, relocation_list(image, Relocations.of(image)))


TARGETS: dict[str, tuple[Callable[[], ElfImage], Callable[[ElfImage], object], range]] = {
    "rewrite": (_guest, rewrite, range(1000, 1100)),
    "scan": (_guest, scan, range(2000, 2100)),
    "wrap": (_guest, _wrap, range(3000, 3100)),
    "verify": (_rewritten, _check, range(4000, 4020)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", TARGETS)
def test_random_damage_is_an_error_of_ours_or_none(name: str) -> None:
    make, target, seeds = TARGETS[name]
    print(f"seeds {seeds.start} to {seeds.stop - 1}")
    refused = 0
    for seed in seeds:
        try:
            target(ElfImage.parse(_mutant(make(), seed), "damaged"))
        except VmipatchError as error:
            refused += 1
            assert error.exit_code is ExitCode.INPUT, f"seed {seed}: {error!r}"
            assert error.place and error.hint, f"seed {seed}: {error}"
            assert "\n" not in str(error), f"seed {seed}"
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
    assert 0 < refused < len(seeds), "the damage is too coarse or too fine to say anything"


NAME, TYPE, FLAGS, ADDRESS, OFFSET, SIZE, LINK, INFO, ALIGN = range(9)
P_TYPE, P_OFFSET, P_VADDR, P_PADDR, P_FILESZ, P_MEMSZ = range(6)


def _relocations_in_memory(damaged: Damaged) -> None:
    """Make .init.data a relocation table, of whole entries."""
    damaged.section_word(".init.data", TYPE, 9)
    size = damaged.image.section_by_name[".init.data"].size
    damaged.section_word(".init.data", SIZE, size & ~7)


def _no_relocations_of_nothing(damaged: Damaged) -> None:
    """A table without an entry, which old builds leave, for a section that does not exist."""
    damaged.section_word(".rel.text", SIZE, 0)
    damaged.section_word(".rel.text", INFO, 99)


BAD: dict[str, tuple[Callable[[Damaged], None], str]] = {
    "symbols without strings": (lambda d: d.section_word(".symtab", LINK, 99), "is not a STRTAB"),
    "relocations without symbols": (
        lambda d: d.section_word(".rel.text", LINK, 1),
        "is not a SYMTAB",
    ),
    "relocations of nothing": (lambda d: d.section_word(".rel.text", INFO, 99), "does not exist"),
    "no relocations of nothing": (_no_relocations_of_nothing, "does not exist"),
    "half a relocation": (
        lambda d: d.section_word(".rel.text", SIZE, d.image.section_by_name[".rel.text"].size - 3),
        "no whole entries",
    ),
    "relocation of symbol 65535": (
        lambda d: d.table_word(".rel.text", 1, 0xFFFF01),
        "names a symbol that does not exist",
    ),
    "relocation elsewhere": (lambda d: d.table_word(".rel.text", 0, 4), "lies outside of .text"),
    "relocated bytes gone": (lambda d: d.section_word(".data", TYPE, 8), "outside of .data"),
    "huge alignment": (lambda d: d.section_word(".strtab", ALIGN, 1 << 30), "not an alignment"),
    "odd alignment": (lambda d: d.section_word(".data", ALIGN, 0x7FFFFFFF), "not an alignment"),
    "section above its segment": (
        lambda d: d.section_word(".data", ADDRESS, 0xE0000000),
        "no program segment loads",
    ),
    "segment from elsewhere in the file": (
        lambda d: d.segment_word(0, P_OFFSET, 0),
        "no program segment loads",
    ),
    "segment above 4 GiB": (lambda d: d.segment_word(2, P_MEMSZ, 0xF0000000), "32 bits"),
    "physical overlap": (lambda d: d.segment_word(1, P_PADDR, 0x1000000), "segments overlap"),
    "name outside of the strings": (
        lambda d: d.table_word(".symtab", 4, 0xFFFFFF),
        "lies outside of its strings",
    ),
    "symbol of no section": (
        lambda d: d.table_word(".symtab", 4 * _first_in(d.image, ".data") + 3, 0x11),
        "is defined nowhere, and has a value",
    ),
    "symbol outside of its code": (
        lambda d: d.table_word(".symtab", 4 * _first_in(d.image, ".text") + 1, 0x1234),
        "lies outside of its section .text",
    ),
    "symbol of data inside code": (
        lambda d: d.table_word(
            ".symtab",
            4 * _first_in(d.image, ".data") + 1,
            d.image.section_by_name[".text"].va + 1,
        ),
        "lies inside of .text, and its section is another one",
    ),
    "relocations in memory": (
        _relocations_in_memory,
        "a table for linkers lies in the kernel's memory",
    ),
    "symbol of a section that does not exist": (
        lambda d: d.table_word(".symtab", 7, 0x00410002),
        r"symbol \d+ is in section 65, which does not exist",
    ),
    "not an instruction": (lambda d: d.table_word(".text", 0, 0xFFFFFFFF), "not an instruction"),
    "kernel below the end of memory": (
        lambda d: d.segment_word(2, P_MEMSZ, 0xFF800000 - 0xC1006000),
        "no room is left",
    ),
    "section name outside of the names": (
        lambda d: d.section_word(".data", NAME, 0xFFFFFF),
        "the name of a section lies outside",
    ),
    "names of sections in memory": (
        lambda d: d.section_word(".shstrtab", FLAGS, 2),
        "in a section that is loaded",
    ),
    "names of sections in section 65535": (
        lambda d: struct.pack_into("<H", d.data, 50, 0xFFFF),
        "stand in section 65535 of 16",
    ),
}


def _first_in(image: ElfImage, name: str) -> int:
    """The number of the first symbol of a section."""
    index = image.section_by_name[name].index
    return next(s.index for s in image.symbols if s.section == index and s.name)


@pytest.mark.parametrize("name", BAD)
def test_contradiction_is_named_with_place_and_remedy(name: str) -> None:
    damage, expected = BAD[name]
    damaged = Damaged(_guest())
    damage(damaged)
    with pytest.raises(InputNotUnderstood, match=expected) as caught:
        rewrite(damaged.parse())
    assert caught.value.file == "damaged"
    assert caught.value.place and caught.value.hint


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [SHT_GNU_SFRAME, SHT_LOUSER, 0xFFFFFFFF, 0xE50000])
def test_unknown_types_are_kept_as_they_are(kind: int) -> None:
    odd = Damaged(_guest())
    note = next(s for s in odd.image.sections if s.kind is SectionKind.STRTAB)
    odd.section_word(".rodata", TYPE, kind)
    image = odd.parse()
    assert image.section_by_name[".rodata"].kind is SectionKind.OTHER
    assert image.section_by_name[note.name].kind is SectionKind.STRTAB
    written = ElfImage.parse(rewrite(image).data)
    shoff = int.from_bytes(written.data[32:36], "little")
    index = written.section_by_name[".rodata"].index
    assert struct.unpack_from("<I", written.data, shoff + 40 * index + 4) == (kind,)
