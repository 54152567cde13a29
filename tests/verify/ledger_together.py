# SPDX-License-Identifier: MIT
"""Which of many changes in one file does the proof name, each at its own place?

A change of code or of a record is a change of what the proof takes from the output, so the expected
file cannot be that of an honest proof. A whole proof for each takes too long: many share a file
instead, at most one in a function, a record, an entry, a thunk or a symbol, and a finding has to
name that (in a function, a place less than an instruction's length away). What no finding names is
tried again with fewer others.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vmipatch.errors import VmipatchError
from vmipatch.isa.anywhere import LONGEST
from vmipatch.verify.static import StaticFinding
from vmipatch.verify.static.added import FALLBACK, NEW_CODE, THUNK_CALLS
from vmipatch.verify.static.bodies import RECORD_SECTIONS
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.reproduce.rows import Row
from vmipatch.verify.static.translations import NEAR_OPCODES, TRANSLATIONS
from vmipatch.vmi.record import FINAL_TRANSLATION, NEAR_CALL_LEN, RECORD_LEN

PAIR_LEN, SYMBOL_LEN, RELOCATION_LEN = 8, 16, 8
ENTRY_LEN = {
    THUNK_CALLS: PAIR_LEN,
    FALLBACK: PAIR_LEN,
    **dict.fromkeys(RECORD_SECTIONS, RECORD_LEN),
}
ROUNDS = 6


@dataclass(frozen=True, slots=True)
class ByteChange:
    """One byte of the output is another."""

    row: Row
    off: int
    value: int

    def __str__(self) -> str:
        return f"{self.row.label}: {self.value:02x} at offset {self.off:#x}"


@dataclass(frozen=True, slots=True)
class NamedPart:
    """The part of a file that a finding has to name for a change in it."""

    start_va: int
    end_va: int
    words: tuple[str, ...] = ()
    """Each of them names it too, in the place or the message of a finding."""
    unit: int = 0
    """Where the function begins that it is in: one change of each shares a file."""

    def is_named_by(self, finding: StaticFinding) -> bool:
        """Whether a finding is about it."""
        if self.start_va <= finding.va < self.end_va:
            return True
        return any(word in finding.place or word in finding.message for word in self.words)


class Parts:
    """The parts of an honest output."""

    def __init__(self, comparison: Comparison) -> None:
        self._image, self._comparison = comparison.output, comparison

    def of(self, off: int) -> NamedPart | None:
        """The part with a byte of the file; None where a finding could not name one."""
        image = self._image
        section = next((s for s in image.sections if s.has_bytes and s.off <= off < s.off + s.size),
                       None)  # fmt: skip
        if section is None:
            return None
        at = off - section.off
        if section.name in ENTRY_LEN:
            index, length = at // ENTRY_LEN[section.name], ENTRY_LEN[section.name]
            va = section.va + index * length
            return NamedPart(va, va + length, (f"{section.name}[{index}]",))
        if section.name == TRANSLATIONS:
            return self._translation(section.va + at)
        if section.name == NEW_CODE:
            return self._thunk(section.va + at)
        if section.name == ".symtab":
            return self._symbol(at // SYMBOL_LEN)
        if section.name.startswith(".rel"):
            entry = section.off + at // RELOCATION_LEN * RELOCATION_LEN
            va = int.from_bytes(image.data[entry : entry + 4], "little")
            return NamedPart(va, va + 1)
        return self._function(section.va + at) if section.is_exec else None

    def _function(self, va: int) -> NamedPart | None:
        after = bisect.bisect_right(self._labels, va)
        if not 0 < after < len(self._labels):
            return None
        low, high = self._labels[after - 1], self._labels[after]
        near = max(low, va - LONGEST + 1), min(high, va + LONGEST)
        return NamedPart(*near, unit=low)

    @cached_property
    def _labels(self) -> list[int]:
        code = self._image.executable_sections
        found = {va for s in code for va in (s.va, s.end_va)}
        values = self._image.symbols.entries["value"].astype(int).tolist()
        ranges = [(s.va, s.end_va) for s in code]
        return sorted(found | {v for v in values if any(low <= v < end for low, end in ranges)})

    def _symbol(self, index: int) -> NamedPart:
        symbol = self._image.symbols[index]
        name = symbol.name or self._image.sections[symbol.section].name
        words = (f"symbol {index} ", f"{name} is ", f"{name} was ", f"{name} has ")
        return NamedPart(0, 0, words if symbol.section < len(self._image.sections) else words[:1])

    def _translation(self, va: int) -> NamedPart | None:
        """Named by the records that have it."""
        mine = [
            body.place.partition(" ")[0]
            for body in self._comparison.bodies.bodies
            if 0 <= va - body.record.translation_va < body.record.translation_len
        ]
        return NamedPart(0, 0, tuple(f"{place} " for place in mine)) if mine else None

    def _thunk(self, va: int) -> NamedPart | None:
        after = bisect.bisect_right(self._thunks, va)
        if not 0 < after < len(self._thunks):
            return None
        start_va, end_va = self._thunks[after - 1 : after + 1]
        return NamedPart(start_va, end_va, (f"the thunk at {start_va:#x}",))

    @cached_property
    def _thunks(self) -> list[int]:
        """Where thunks begin, and the end of the last."""
        found = {self._image.section_by_name[NEW_CODE].end_va}
        for body in self._comparison.bodies.bodies:
            va = body.record.translation_va
            code = self._image.read(va, NEAR_CALL_LEN)
            if body.record.call_off == FINAL_TRANSLATION and code[0] in NEAR_OPCODES:
                disp = int.from_bytes(code[1:], "little", signed=True)
                found.add((va + NEAR_CALL_LEN + disp) & 0xFFFFFFFF)
        return sorted(found)


Judge = Callable[[bytes], Sequence[StaticFinding]]
"""All findings about a changed file. Raises VmipatchError if it is refused as a whole."""


def unnamed(
    data: bytes, changes: Sequence[ByteChange], parts: Parts, judge: Judge
) -> list[ByteChange]:
    """Those changes of `data` that no finding names, though few others are in the same file."""
    left = list(changes)
    for _ in range(ROUNDS):
        found: set[ByteChange] = set()
        waiting = list(left)
        while waiting:
            together, waiting = _apart(waiting, parts)
            if not together:
                break
            found |= _named(data, together, judge)
        left = [change for change in left if change not in found]
        if not left or not found:
            break
    return left


def _apart(
    changes: Sequence[ByteChange], parts: Parts
) -> tuple[dict[ByteChange, NamedPart], list[ByteChange]]:
    """One change of each part, with it, and the others; those without a part are left out."""
    chosen: dict[NamedPart | int, ByteChange] = {}
    together, others = {}, []
    for change in changes:
        part = parts.of(change.off)
        if part is None:
            continue
        if chosen.setdefault(part.unit or part, change) is change:
            together[change] = part
        else:
            others.append(change)
    return together, others


def _named(data: bytes, together: dict[ByteChange, NamedPart], judge: Judge) -> set[ByteChange]:
    """The changes that a proof of one file with all of them names."""
    changed = bytearray(data)
    for change in together:
        changed[change.off] = change.value
    try:
        findings = judge(bytes(changed))
    except VmipatchError:
        if len(together) == 1:
            return set(together)
        pairs = list(together.items())
        half = len(pairs) // 2
        return _named(data, dict(pairs[:half]), judge) | _named(data, dict(pairs[half:]), judge)
    return {c for c, part in together.items() if any(map(part.is_named_by, findings))}
