# SPDX-License-Identifier: MIT
"""How is each section and each table of a kernel damaged in each way that there is, by name?

    for target in targets(image):
        damaged = target.damage(image, detail)

Hypothesis draws the detail. What is damaged is not drawn: a campaign visits every target.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.damage import SECTION_HEADER_LEN, SYMBOL_LEN, VALUE
from vmipatch.image.elf import SHOFF_AT, ElfImage
from vmipatch.image.symbols import STT_FUNC, STT_SECTION
from vmipatch.image.types import SectionKind
from vmipatch.tables.find import find_all
from vmipatch.tables.table import Table

SIZE_OF_SYMBOL = 8
"""Where the size stands in a symbol, after its address."""
ADDRESS, OFFSET = 3, 4
RUN_LEN = 64
"""Bytes at most that are filled or moved."""
EXTREMES = (0, 1, 3, 0xFF, 0xFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)


class Way(enum.Enum):
    """A kind of damage to a section or table."""

    NAME = "its name"
    TYPE = "its type"
    FLAGS = "its flags"
    ADDRESS = "its address"
    OFFSET = "its offset"
    SIZE = "its size"
    LINK = "its link"
    INFO = "its info"
    ALIGN = "its alignment"
    ENTRY_LEN = "its length of entries"
    OVERLAP = "laid over another"
    CUT = "the file ends in it"
    BIT = "a bit"
    RUN = "bytes filled"
    MOVED = "bytes moved"
    START = "the symbols of its start"
    STOP = "the symbols of its end"
    EXTENT = "the sizes of its symbols"
    WORD = "a word"
    SWAPPED = "two entries exchanged"
    REPEATED = "an entry twice"


FIELDS = tuple(Way)[:10]
"""Those of a section header, in its order (System V ABI, chapter 4)."""
OF_CONTENTS = (Way.OVERLAP, Way.CUT, Way.BIT, Way.RUN, Way.MOVED)
OF_TABLES = (
    Way.START, Way.STOP, Way.EXTENT, Way.BIT, Way.RUN, Way.WORD, Way.SWAPPED, Way.REPEATED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DamageDetail:
    """Where and by how much; fractions choose a place in whatever it is."""

    where: float
    other: float
    amount: int
    change: int

    def turned(self, name: str) -> DamageDetail:
        """The same for another target: the simplest draw must not hit the first byte of each."""
        turn = zlib.crc32(name.encode())
        where = (self.where + turn % 9973 / 9973) % 1
        other = (self.other + turn % 9949 / 9949) % 1
        return DamageDetail(where, other, self.amount, self.change + turn)

    def changed(self, value: int, foreign: int) -> int:
        """Another value for a word: a bit turned, a little more or less, an extreme, another's."""
        choices = (
            value ^ 1 << int(32 * self.where),
            value + (self.amount or 4),
            EXTREMES[int(self.other * len(EXTREMES))],
            foreign,
        )
        new = choices[self.change % len(choices)] & 0xFFFFFFFF
        return new if new != value else value ^ 1 << int(32 * self.other)


_FRACTION = st.floats(0, 1, exclude_max=True)
details = st.builds(
    DamageDetail,
    _FRACTION,
    _FRACTION,
    st.one_of(st.integers(-64, 64), st.sampled_from((-4096, 4096, 1 << 20))),
    st.integers(0, 3),
)


@dataclass(frozen=True, slots=True)
class Target:
    """One section (by number: names may occur twice) or table, and a way to damage it."""

    name: str
    way: Way
    section: int | None = None
    table: Table | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.way.value}"

    def damage(self, image: ElfImage, drawn: DamageDetail) -> bytes:
        """The bytes of the file, damaged."""
        detail, data = drawn.turned(str(self)), bytearray(image.data)
        if self.table is not None:
            _damage_table(image, data, self.table, self.way, detail)
        elif self.way in FIELDS:
            assert self.section is not None
            _damage_field(image, data, self.section, FIELDS.index(self.way), detail)
        else:
            assert self.section is not None
            _damage_contents(image, data, self.section, self.way, detail)
        return bytes(data)


def section_targets(image: ElfImage) -> Iterator[Target]:
    """Every section with every way that it can be damaged in."""
    for section in image.sections:
        name = section.name or f"section {section.index}"
        has_contents = section.has_bytes and section.size > 0
        for way in (*FIELDS, *(OF_CONTENTS if has_contents else (Way.OVERLAP,))):
            yield Target(name, way, section=section.index)


def table_targets(image: ElfImage) -> Iterator[Target]:
    """Every table with every way that it can be damaged in."""
    for table in find_all(image):
        for way in OF_TABLES:
            if _applies(image, table, way):
                yield Target(table.name.value, way, table=table)


def targets(image: ElfImage) -> list[Target]:
    """All of both."""
    return [*section_targets(image), *table_targets(image)]


def each_name_and_way(chosen: list[Target], salt: int = 0) -> list[Target]:
    """Few of them: each name once and each way once, the pairs drawn by `salt`."""
    shuffled = sorted(chosen, key=lambda target: zlib.crc32(f"{target} {salt}".encode()))
    few: list[Target] = []
    for target in shuffled:
        names, ways = {t.name for t in few}, {t.way for t in few}
        if target.name not in names or target.way not in ways:
            few.append(target)
    return few


def sweep(
    chosen: list[Target], examples: int, salt: int, check: Callable[[Target, DamageDetail], None]
) -> list[str]:
    """Draw `examples` details for each target and check them: all complaints.

    One failure of a target is told, and nothing is shrunk: a kernel takes seconds.
    """
    complaints = []
    for target in chosen:
        try:
            _drawn(target, examples, salt, check)
        except Exception as error:
            complaints.append(f"{target}: {error!r}")
    return complaints


def _drawn(
    target: Target, examples: int, salt: int, check: Callable[[Target, DamageDetail], None]
) -> None:
    @seed(zlib.crc32(f"{target} {salt}".encode()))
    @settings(max_examples=examples, phases=[Phase.generate], database=None)
    @given(detail=details)
    def one(detail: DamageDetail) -> None:
        check(target, detail)

    one()


def _damage_field(
    image: ElfImage, data: bytearray, index: int, field: int, detail: DamageDetail
) -> None:
    at = _header_off(image, index) + 4 * field
    other = int(detail.other * len(image.sections))
    (value,) = struct.unpack_from("<I", data, at)
    (foreign,) = struct.unpack_from("<I", data, _header_off(image, other) + 4 * field)
    struct.pack_into("<I", data, at, detail.changed(value, foreign))


def _damage_contents(
    image: ElfImage, data: bytearray, index: int, way: Way, detail: DamageDetail
) -> None:
    section = image.sections[index]
    if way is Way.OVERLAP:
        others = [s for s in image.sections if s.index != index and s.has_bytes and s.size]
        victim = others[int(detail.other * len(others))]
        inside = int(detail.where * victim.size) & ~3
        header = _header_off(image, index)
        struct.pack_into("<I", data, header + 4 * OFFSET, victim.off + inside)
        if section.is_alloc:
            struct.pack_into("<I", data, header + 4 * ADDRESS, victim.va + inside)
        return
    at = int(detail.where * section.size)
    if way is Way.CUT:
        del data[section.off + at :]
    else:
        _damage_bytes(data, section.off, section.off + section.size, way, detail)


def _damage_bytes(data: bytearray, start: int, end: int, way: Way, detail: DamageDetail) -> None:
    at = start + int(detail.where * (end - start))
    length = min(1 + int(detail.other * RUN_LEN), end - at)
    match way:
        case Way.BIT:
            data[at] ^= 1 << int(8 * detail.other)
        case Way.RUN:
            value = (0, 0xFF, 0x90, 0xCC)[detail.change % 4]
            data[at : at + length] = bytes([value]) * length
        case Way.MOVED:
            source = start + int(detail.other * (end - start - length + 1))
            data[at : at + length] = data[source : source + length]


def _applies(image: ElfImage, table: Table, way: Way) -> bool:
    match way:
        case Way.START:
            return bool(_symbols_at(image, table.start_va))
        case Way.STOP:
            return bool(_symbols_at(image, table.end_va))
        case Way.EXTENT:
            return any(image.symbols[i].size for i in _symbols_at(image, table.start_va))
        case Way.SWAPPED | Way.REPEATED:
            return len(table) > 1
    return True


def _symbols_at(image: ElfImage, va: int) -> list[int]:
    """Numbers of the symbols that may be bounds of a table."""
    return [s.index for s in image.symbols if s.va == va and s.kind not in (STT_SECTION, STT_FUNC)]


def _damage_table(
    image: ElfImage, data: bytearray, table: Table, way: Way, detail: DamageDetail
) -> None:
    start, length = image.offset_of(table.start_va), table.end_va - table.start_va
    entry_len = max(length // max(len(table), 1), 1)
    first, second = (start + int(f * len(table)) * entry_len for f in (detail.where, detail.other))
    match way:
        case Way.START | Way.EXTENT:
            what = VALUE if way is Way.START else SIZE_OF_SYMBOL
            _move_symbols(image, data, table.start_va, what, detail, entry_len)
        case Way.STOP:
            _move_symbols(image, data, table.end_va, VALUE, detail, entry_len)
        case Way.WORD:
            at = start + int(detail.where * (length // 4)) * 4
            (value,) = struct.unpack_from("<I", data, at)
            struct.pack_into("<I", data, at, detail.changed(value, table.start_va))
        case Way.SWAPPED | Way.REPEATED:
            if first == second:
                second = start + (first - start + entry_len) % (len(table) * entry_len)
            one, two = (bytes(data[at : at + entry_len]) for at in (first, second))
            data[second : second + entry_len] = one
            if way is Way.SWAPPED:
                data[first : first + entry_len] = two
        case _:
            _damage_bytes(data, start, start + length, way, detail)


def _move_symbols(
    image: ElfImage, data: bytearray, va: int, what: int, detail: DamageDetail, entry_len: int
) -> None:
    symtab = next(s for s in image.sections if s.kind is SectionKind.SYMTAB)
    amount = (entry_len, -entry_len, detail.amount or 1, 4)[detail.change % 4]
    for index in _symbols_at(image, va):
        at = symtab.off + SYMBOL_LEN * index + what
        (value,) = struct.unpack_from("<I", data, at)
        struct.pack_into("<I", data, at, (value + amount) & 0xFFFFFFFF)


def _header_off(image: ElfImage, index: int) -> int:
    (start,) = struct.unpack_from("<I", image.data, SHOFF_AT)
    return int(start) + SECTION_HEADER_LEN * index
