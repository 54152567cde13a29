# SPDX-License-Identifier: MIT
"""Where are the relocated words of code that stands out of line?

A window of the original is a jump in the output, and its instructions are in a trampoline: near
forms for short branches, sites with their padding, all else byte by byte, and a jump back. Both are
decoded side by side. What comes of it is a proposal, which the proof then judges.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import WORD_LEN, Relocations
from vmipatch.isa.second import Decoded, Filler, Leaves, decode_second
from vmipatch.verify.static.outline import TRAMPOLINES, Window, near_opcode

_PREFIX = 0x3E
"""Padding in front of a site: segment overrides without a meaning."""


def places_out_of_line(
    original: ElfImage, inside: ElfImage, windows: Sequence[Window]
) -> dict[int, int]:
    """New addresses of the relocated words of `windows`, by original address.

    `inside` is the kernel in the output. Windows from the first on that does not fit are left out.
    """
    section = inside.section_by_name.get(TRAMPOLINES)
    if section is None or not section.has_bytes:
        return {}
    words = sorted(Relocations.of(original).entries["va"].tolist())
    code = inside.section_bytes(section)
    there = _Code(code, section.va, decode_second(code, section.va))
    result: dict[int, int] = {}
    index = 0
    for window in sorted(windows, key=lambda each: each.start_va):
        mine = words[bisect_left(words, window.start_va) : bisect_left(words, window.end_va)]
        found = _follow(original, window, mine, there, index)
        if found is None:
            break
        ends, index = found
        result |= dict(_moved(mine, ends))
    return result


@dataclass(frozen=True, slots=True)
class _Code:
    """Bytes at an address, and what they are."""

    code: bytes = field(repr=False)
    va: int
    decoded: Decoded = field(repr=False)

    def at(self, index: int) -> bytes:
        """One instruction."""
        start = int(self.decoded.starts[index]) - self.va
        return self.code[start : start + int(self.decoded.lens[index])]

    def end(self, index: int) -> int:
        """Where one ends."""
        return int(self.decoded.starts[index]) + int(self.decoded.lens[index])


Ends = list[tuple[int, int, int]]
"""Start and end of instructions of the original, and the ends of the same in the output."""


def _follow(
    original: ElfImage, window: Window, words: Sequence[int], there: _Code, index: int
) -> tuple[Ends, int] | None:
    """The instructions of a window from number `index` of `there` on, and what follows them.

    `words` are the addresses of its relocated words. None if there are other instructions.
    """
    size = window.end_va - window.start_va
    if original.section_at(window.start_va) is None or size <= 0:
        return None
    code = original.read(window.start_va, size)
    here = _Code(code, window.start_va, decode_second(code, window.start_va))
    ends: Ends = []
    leaves = Leaves.NEXT
    for number in range(len(here.decoded)):
        start_va, end_va = int(here.decoded.starts[number]), here.end(number)
        back = [end_va - va for va in words if start_va < va < end_va]
        while index < len(there.decoded) and not _is_same(here, number, there, index, back):
            if there.decoded.fillers[index] != Filler.NOP:
                return None
            index += 1
        if index == len(there.decoded):
            return None
        ends.append((start_va, end_va, there.end(index)))
        leaves = Leaves(int(here.decoded.leaves[number]))
        index += 1
    while index < len(there.decoded) and there.decoded.fillers[index] == Filler.NOP:
        index += 1
    return ends, index + (leaves not in (Leaves.STOP, Leaves.JUMP))


def _is_same(here: _Code, number: int, there: _Code, index: int, back: Sequence[int]) -> bool:
    """Whether instruction `index` of the output is `number` of the original, but for its words.

    `back` are the distances of those from its end.
    """
    was, now = here.at(number), there.at(index)
    width = int(here.decoded.widths[number])
    if width in (1, WORD_LEN):
        opcode = near_opcode(was[:-width], Leaves(int(here.decoded.leaves[number])))
        return now[:-WORD_LEN] == opcode
    padding_len = max(len(now) - len(was), 0)
    is_padded = set(now[:padding_len]) <= {_PREFIX}
    return is_padded and _without(now[padding_len:], back) == _without(was, back)


def _without(one: bytes, back: Sequence[int]) -> bytes:
    """An instruction with zeros for its words."""
    result = bytearray(one)
    for distance in back:
        at = len(one) - distance
        result[at : at + WORD_LEN] = bytes(WORD_LEN)
    return bytes(result)


def _moved(words: Sequence[int], ends: Ends) -> Iterator[tuple[int, int]]:
    """Operands keep their distance to the end of their instruction."""
    for va in words:
        for start_va, end_va, new_end_va in ends:
            if start_va < va < end_va:
                yield va, va + new_end_va - end_va
