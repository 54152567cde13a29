# SPDX-License-Identifier: MIT
"""How can a rewritten kernel be wrong? Seeded faults, one kind a function.

Each fault knows where a finding has to point: at its address, in its function or record.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import Relocations
from vmipatch.isa.decode import InstructionStream, Shape, decode
from vmipatch.rewrite.rewrite import RewriteOptions, RewrittenImage, rewrite
from vmipatch.tables.find import find_all
from vmipatch.tables.table import Table, Tables, WordForm
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import (
    FINAL_TRANSLATION,
    NEAR_CALL_LEN,
    RECORD_LEN,
    AnnotationRecord,
    unpack_records,
)

Item = TypeVar("Item")
RECORD_SECTION = ".vmi.annotation"
RECORD_SECTIONS = (RECORD_SECTION, ".vmi.annotation.init")
FIELDS = (
    "call",
    "native_va",
    "translation_va",
    "native_len",
    "translation_len",
    "pad_len",
    "call_off",
)


@dataclass(frozen=True, slots=True)
class SeededFault:
    """One fault: the output bytes it is in, and what a finding has to name."""

    va: int
    length: int
    place: str
    """Function or record that the finding's place must hold."""
    what: str
    table: str = ""
    """The kernel table that is damaged, if one is."""


class Victim:
    """A rewritten kernel that is about to be damaged."""

    def __init__(self, original: ElfImage, options: RewriteOptions) -> None:
        """Rewrite `original`; its output stays whole, `data` is what faults go into."""
        self.original = original
        self.result: RewrittenImage = rewrite(original, options)
        self.whole = ElfImage.parse(self.result.data, "whole")
        self.data = bytearray(self.result.data)
        self.streams = [self._stream(name) for name in (".text", ".init.text")]
        self._touched: set[str] = set()

    @cached_property
    def tables(self) -> Tables:
        """The original's tables."""
        return find_all(self.original)

    @cached_property
    def table_words(self) -> frozenset[int]:
        """Where words of tables are in the output."""
        return frozenset(va for table in self.tables for va in self.new(table.words["va"]).tolist())

    @cached_property
    def relocated(self) -> np.ndarray:
        """The output's relocations."""
        return Relocations.of(self.whole).entries

    def heal(self) -> None:
        """Take all faults back."""
        self.data = bytearray(self.result.data)
        self._touched.clear()

    @cached_property
    def thunk_vas(self) -> list[int]:
        """Where thunks begin, and where the last one ends at the latest."""
        code, whole = self.whole.section_by_name[".vmi.text"], self.whole
        starts = set()
        for *_, record in self.placed_records():
            jump = whole.read(record.translation_va, record.translation_len)
            if record.call_off == FINAL_TRANSLATION:
                behind_va = record.translation_va + NEAR_CALL_LEN
                starts.add(behind_va + int.from_bytes(jump[1:NEAR_CALL_LEN], "little") & 0xFFFFFFFF)
        runtime_va = whole.symbols.address("__vmi_start") or code.end_va
        return [*sorted(va for va in starts if va in code), runtime_va]

    @property
    def damaged(self) -> ElfImage:
        """The kernel with its faults."""
        return ElfImage.parse(bytes(self.data), "damaged")

    def function(self, va: int) -> str:
        """The function that holds `va`."""
        return self.whole.symbols.place_of(va).split("+")[0]

    def claim(self, va: int) -> bool:
        """Whether no other fault is in the function of `va` yet; takes it if so."""
        return self.claim_name(self.function(va))

    def claim_name(self, name: str) -> bool:
        """The same for something that has a name of its own."""
        if name in self._touched:
            return False
        self._touched.add(name)
        return True

    def write(self, va: int, content: bytes) -> None:
        """Overwrite bytes at an output address."""
        off = self.whole.offset_of(va)
        self.data[off : off + len(content)] = content

    def word(self, va: int) -> int:
        """The word at an output address of the whole file."""
        return int.from_bytes(self.whole.read(va, 4), "little")

    def new(self, vas: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where addresses of the original went."""
        return self.result.placement.map(np.asarray(vas, np.int64))

    def records(self, section: str = RECORD_SECTION) -> list[AnnotationRecord]:
        """The records of one section."""
        return list(unpack_records(self.whole.section_bytes(self.whole.section_by_name[section])))

    def placed_records(self) -> list[tuple[str, int, int, AnnotationRecord]]:
        """Every record: its section, its index there, its address, and itself."""
        return [
            (name, index, self.whole.section_by_name[name].va + index * RECORD_LEN, record)
            for name in RECORD_SECTIONS
            if name in self.whole.section_by_name
            for index, record in enumerate(self.records(name))
        ]

    def _stream(self, name: str) -> InstructionStream:
        section = self.whole.section_by_name[name]
        starts = [s.va for s in self.whole.symbols if s.section == section.index]
        return decode(self.whole.section_bytes(section), section.va, starts)


def branches_off_by_one(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Displacements one too large or too small."""
    for stream, index, width, _ in _branches(victim, dice, count):
        end_va = int(stream.starts[index]) + int(stream.lens[index])
        kind = "<i" if width == 4 else "<b"
        disp = struct.unpack(kind, victim.whole.read(end_va - width, width))[0]
        disp += 1 if disp < 0 else -1
        victim.write(end_va - width, struct.pack(kind, disp))
        yield _in_code(victim, stream, index, f"displacement {disp:#x}")


def branches_left_behind(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Branches that still have their targets of the original."""
    back = victim.result.placement.map.inverse()
    for stream, index, width, target in _branches(victim, dice, 20 * count):
        old = back.one(target)
        if width != 4 or old == target or int(victim.new([old])[0]) != target:
            continue
        end_va = int(stream.starts[index]) + int(stream.lens[index])
        victim.write(end_va - 4, struct.pack("<I", (old - end_va) & 0xFFFFFFFF))
        yield _in_code(victim, stream, index, f"still targets {old:#x}")
        count -= 1
        if not count:
            return


def table_words_left_behind(
    victim: Victim, dice: random.Random, table: Table, count: int
) -> Iterator[SeededFault]:
    """Words of `table` that still have their targets of the original."""
    moved = moved_words(victim, table)
    for row in table.words[dice.sample(moved, min(count, len(moved)))]:
        yield word_left_behind(victim, table, row)


def word_left_behind(victim: Victim, table: Table, row: np.void) -> SeededFault:
    """One word of `table` that still has its target of the original."""
    old, form = int(row["target_va"]), int(row["form"])
    # The displacement of a branch keeps its distance to the branch's end.
    va = int(victim.new([int(row["va"])])[0])
    shift = int(victim.new([old])[0]) - old
    stored = (victim.word(va) - shift) & 0xFFFFFFFF
    victim.write(va, struct.pack("<I", stored))
    place = victim.function(va) if table.in_code else f"{table.name.value}["
    lead = 2 * (form == WordForm.BRANCH)
    return SeededFault(va - lead, 4 + lead, place, f"{old:#x}", table.name.value)


def moved_words(victim: Victim, table: Table) -> list[int]:
    """Indices of words of `table` whose target moved."""
    targets = table.words["target_va"]
    return [int(i) for i in np.flatnonzero(victim.new(targets) != targets)]


def record_fields(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """Records with one field wrong, `count` for each field."""
    for field in FIELDS:
        yield from record_field(victim, dice, field, count)


def record_field(
    victim: Victim, dice: random.Random, field: str, count: int
) -> Iterator[SeededFault]:
    """`count` records with this field wrong."""
    for name, index, va, record in dice.sample(victim.placed_records(), 4 * count):
        if not count or not victim.claim(record.native_va):
            continue
        count -= 1
        value = _other_value(record, field, dice)
        change: dict[str, Any] = {field: value}
        victim.write(va, replace(record, **change).pack())
        yield SeededFault(va, RECORD_LEN, f"{name}[{index}]", f"{field} is {value:#x}")


def _other_value(record: AnnotationRecord, field: str, dice: random.Random) -> int:
    was = int(getattr(record, field))
    choices: dict[str, list[int]] = {
        "call": [c for c in VmiCall if c != was],
        "native_va": [was + 1, was - 1, was + record.native_len, was + 4096],
        "translation_va": [was + 1, was - 1, record.native_va, 0],
        "native_len": [v for v in range(256) if v != was],
        "translation_len": [v for v in range(256) if v != was],
        "pad_len": [v for v in range(-128, 128) if v != was],
        "call_off": [v for v in range(256) if v != was],
    }
    return dice.choice(choices[field])


def native_bytes_changed(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """A bit of an instruction flipped."""
    for stream in victim.streams:
        code = np.flatnonzero(stream.shapes == Shape.CODE).tolist()
        left = count - count // 4 if stream is victim.streams[0] else count // 4
        for index in dice.sample(code, 4 * left):
            va, length = int(stream.starts[index]), int(stream.lens[index])
            if not left or not victim.claim(va):
                continue
            at = va + dice.randrange(length)
            victim.write(at, bytes((victim.whole.read(at, 1)[0] ^ 1 << dice.randrange(8),)))
            yield _in_code(
                victim, stream, index, f"byte {at - va} of {stream.bytes_at(index).hex()}"
            )
            left -= 1


def paddings_wrong(victim: Victim, dice: random.Random, count: int) -> Iterator[SeededFault]:
    """A byte of a site's padding replaced by other filler."""
    sites = [pair for pair in victim.result.sites if pair[1].pad_len]
    for site, body in dice.sample(sites, 4 * count):
        va = int(victim.new([site.va])[0])
        if not victim.claim(va):
            continue
        leads = body.code.startswith(site.code)
        start = va + len(site.code) if leads else va
        at = start + dice.randrange(body.pad_len)
        was = victim.whole.read(at, 1)
        victim.write(at, dice.choice([b for b in (b"\x26", b"\x90", b"\xcc", b"\x36") if b != was]))
        yield SeededFault(va, len(body.code), victim.function(va), f"padding of {site.kind}")
        count -= 1
        if not count:
            return


def _branches(
    victim: Victim, dice: random.Random, count: int
) -> Iterator[tuple[InstructionStream, int, int, int]]:
    """Random direct branches, one a function: stream, index, width, target."""
    for stream in victim.streams:
        share = count - count // 4 if stream is victim.streams[0] else count // 4
        rows = range(len(stream.branches))
        for row in dice.sample(rows, min(len(rows), 8 * share)):
            index = int(stream.branches[row])
            if not share or not victim.claim(int(stream.starts[index])):
                continue
            share -= 1
            width = int(stream.branch_widths[row])
            yield stream, index, width, int(stream.branch_targets[row])


def _in_code(victim: Victim, stream: InstructionStream, index: int, what: str) -> SeededFault:
    va = int(stream.starts[index])
    return SeededFault(va, int(stream.lens[index]), victim.function(va), what)


def some(dice: random.Random, items: Iterable[Item], count: int) -> list[Item]:
    """At most `count` of the items, each once, in random order."""
    every = list(items)
    return dice.sample(every, min(count, len(every)))
