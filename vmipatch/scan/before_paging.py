# SPDX-License-Identifier: MIT
"""Which code runs only before paging is on.

Followed from where the boot loader enters, and from every physical address of code that the image
holds (a second processor starts at one), up to the write of CR0 that switches paging on. A
function that it calls belongs to it if nobody else calls it or takes its address.
"""

from __future__ import annotations

import numpy as np

from vmipatch.image.ascending import distinct
from vmipatch.image.relocations import R_386_32
from vmipatch.isa.classify import classify
from vmipatch.isa.decode import Flow, InstructionStream
from vmipatch.scan.code import CodeMap


def ranges_before_paging(code_map: CodeMap) -> list[tuple[int, int]]:
    """Half-open address ranges, ascending, of code that runs only before paging."""
    walk = _Walk(code_map)
    walk.follow(_roots(code_map))
    while callees := walk.exclusive_callees():
        walk.follow(callees)
    return walk.ranges()


def _roots(code_map: CodeMap) -> list[int]:
    """The entry point, and code addresses that appear as physical ones."""
    image, offset = code_map.image, code_map.page_offset
    entry = image.entry if image.entry >= offset else image.entry + offset
    words = code_map.relocations.entries
    values = words["value"][words["kind"] == R_386_32].astype(np.int64)
    physical = distinct(values[values < offset] + offset).tolist() if offset else []
    return [entry, *(va for va in physical if _is_instruction(code_map, va))]


def _is_instruction(code_map: CodeMap, va: int) -> bool:
    stream = code_map.stream_at(va)
    return stream is not None and stream.index_of(va) >= 0


def _turns_paging_on(stream: InstructionStream, index: int) -> bool:
    """Whether this is `mov cr0, r` behind a `mov r, imm` or `or eax, imm` with bit 31 (PG)."""
    code = stream.bytes_at(index)
    form = classify(code)
    if form is None or form.name != "mov cr0, r32" or index == 0:
        return False
    before = stream.bytes_at(index - 1)
    sets_it = len(before) == 5 and before[0] in (0xB8 | code[-1] & 7, OR_EAX)
    return sets_it and bool(before[4] & 0x80)


OR_EAX = 0x0D


class _Walk:
    """The instructions reached so far, and the calls met on the way."""

    def __init__(self, code_map: CodeMap) -> None:
        self._code_map = code_map
        self._reached: dict[int, int] = {}
        self._callees: set[int] = set()

    def follow(self, roots: list[int]) -> None:
        """Follow direct control flow from `roots` until paging is on."""
        pending = list(roots)
        while pending:
            va = pending.pop()
            stream = self._code_map.stream_at(va)
            if va in self._reached or stream is None:
                continue
            index = stream.index_of(va)
            if index >= 0:
                pending += self._successors(stream, index)

    def _successors(self, stream: InstructionStream, index: int) -> list[int]:
        va, length = int(stream.starts[index]), int(stream.lens[index])
        self._reached[va] = length
        flow = Flow(int(stream.flows[index]))
        result = [] if flow in (Flow.STOP, Flow.JUMP) else [va + length]
        if flow in (Flow.JUMP, Flow.CONDITION, Flow.LOOP, Flow.CALL):
            at = int(np.searchsorted(stream.branches, index))
            target = int(stream.branch_targets[at])
            (self._callees.add if flow is Flow.CALL else result.append)(target)
        return [] if flow is Flow.NEXT and _turns_paging_on(stream, index) else result

    def exclusive_callees(self) -> list[int]:
        """Functions called from here that have no other caller and whose address nobody takes."""
        words = self._code_map.relocations.entries
        taken = set(words["value"][words["kind"] == R_386_32].tolist())
        new = sorted(self._callees - self._reached.keys())
        return [va for va in new if va not in taken and self._callers(va) <= self._reached.keys()]

    def _callers(self, va: int) -> set[int]:
        return {
            int(stream.starts[index])
            for stream in self._code_map.streams.values()
            for index in stream.branches[stream.branch_targets == va].tolist()
        }

    def ranges(self) -> list[tuple[int, int]]:
        """What was reached, as merged ranges."""
        merged: list[tuple[int, int]] = []
        for va in sorted(self._reached):
            end = va + self._reached[va]
            if merged and merged[-1][1] == va:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((va, end))
        return merged
