# SPDX-License-Identifier: MIT
"""Which code runs only before paging is on.

Followed from where the boot loader enters, up to the write of CR0 that switches paging on; and from
every other entry: a physical address of code that the image holds (a second processor starts at
one), if control from there arrives at such a write. Many words happen to be physical addresses
(lengths, `_text`, the end of a page), and what lies there runs with paging on as a rule. Code that
runs into what was found is an entry too, if its address is held as a linked one: the physical
address of startup_32_smp is computed from it. A function that is called belongs to it if nothing
else calls it or takes its address; not the hook, which the runtime precedes.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import cached_property

import numpy as np

from vmipatch.image.ascending import distinct
from vmipatch.image.entry_points import entry_points, linked_address
from vmipatch.image.relocations import R_386_32
from vmipatch.isa.classify import OPERAND_SIZE, classify, split_prefixes
from vmipatch.isa.decode import Flow, InstructionStream
from vmipatch.scan.code import CodeMap


def ranges_before_paging(code_map: CodeMap) -> list[tuple[int, int]]:
    """Half-open address ranges, ascending, of code that runs only before paging."""
    walk = _Walk(code_map)
    walk.follow(entry_points(code_map.image))
    walk.follow(_entries(code_map))
    while joining := walk.joining():
        walk.follow(joining)
    while callees := walk.exclusive_callees():
        walk.follow(callees)
    return walk.ranges()


def _entries(code_map: CodeMap) -> list[int]:
    """Code whose physical address the image holds, if control from there switches paging on."""
    result: list[int] = []
    astray: set[int] = set()
    for va in _physical(code_map):
        walk = _Walk(code_map, astray)
        if walk.arrives(va):
            result.append(va)
        else:
            astray |= walk.reached.keys()
    return result


def _physical(code_map: CodeMap) -> list[int]:
    """Instructions whose physical address is a word of the image, by linked address."""
    offset = code_map.page_offset
    words = code_map.relocations.entries
    values = words["value"][words["kind"] == R_386_32].astype(np.int64)
    physical = distinct(values[values < offset] + offset).tolist() if offset else []
    return [va for va in physical if _is_instruction(code_map, va)]


def _is_instruction(code_map: CodeMap, va: int) -> bool:
    stream = code_map.stream_at(va)
    return stream is not None and stream.index_of(va) >= 0


def _turns_paging_on(stream: InstructionStream, index: int) -> bool:
    """Whether this is `mov cr0, r` after a `mov r, imm` or `or r, imm` with bit 31 (PG)."""
    code = stream.bytes_at(index)
    form = classify(code)
    if form is None or form.name != "mov cr0, r32" or index == 0:
        return False
    before, register = stream.bytes_at(index - 1), code[-1] & 7
    opcodes = [bytes((MOV_IMMEDIATE | register,)), bytes((OR_IMMEDIATE, 0xC8 | register))]
    if register == 0:
        opcodes.append(OR_EAX)
    return before[:-4] in opcodes and bool(before[-1] & 0x80)


MOV_IMMEDIATE, OR_IMMEDIATE, OR_EAX = 0xB8, 0x81, b"\x0d"
FAR_JUMP, FAR_JUMP_LEN = 0xEA, 7


class _Walk:
    """The instructions reached so far, and the calls met on the way."""

    def __init__(self, code_map: CodeMap, astray: Set[int] = frozenset()) -> None:
        """Nothing is followed into `astray`, from where no write that switches paging on is met."""
        self._code_map = code_map
        self._boot_vas = entry_points(code_map.image)
        # The runtime runs before the hook: from there on code is not of before.
        self._hook_va = None if code_map.hook is None else code_map.hook.va
        self._astray = astray
        self.reached: dict[int, int] = {}
        """Length of each instruction by its address."""
        self._entries: set[int] = set()
        self._callees: set[int] = set()
        self._arrived = False

    def follow(self, roots: Iterable[int]) -> None:
        """Follow direct control flow from `roots` until paging is on."""
        pending = list(roots)
        self._entries.update(pending)
        while pending:
            va = pending.pop()
            stream = self._code_map.stream_at(va)
            if va in self.reached or va in self._astray or stream is None or va == self._hook_va:
                continue
            index = stream.index_of(va)
            if index >= 0:
                pending += self._successors(stream, index)

    def arrives(self, va: int) -> bool:
        """Whether control from `va` comes to a write of CR0 that switches paging on."""
        self.follow([va])
        return self._arrived

    def _successors(self, stream: InstructionStream, index: int) -> list[int]:
        va, length = int(stream.starts[index]), int(stream.lens[index])
        self.reached[va] = length
        flow = Flow(int(stream.flows[index]))
        result = [] if flow in (Flow.STOP, Flow.JUMP) else [va + length]
        if flow in (Flow.JUMP, Flow.CONDITION, Flow.LOOP, Flow.CALL):
            at = int(np.searchsorted(stream.branches, index))
            target = int(stream.branch_targets[at])
            (self._callees.add if flow is Flow.CALL else result.append)(target)
            if flow is Flow.CALL and va + length in self._boot_vas:
                return []  # the end of a function: of panic(), say
        elif flow is Flow.STOP:
            result += self._far_target(stream.bytes_at(index))
        elif flow is Flow.NEXT and _turns_paging_on(stream, index):
            self._arrived = True
            return []
        return result

    def _far_target(self, code: bytes) -> list[int]:
        """Where a far jump to a constant goes: before paging that is a physical address."""
        prefixes, rest = split_prefixes(code)
        if rest[:1] != bytes((FAR_JUMP,)) or OPERAND_SIZE in prefixes:
            return []
        target = int.from_bytes(rest[1:5], "little")
        return [linked_address(self._code_map.image, target)]

    @cached_property
    def _taken(self) -> set[int]:
        """The values of absolute words of the image."""
        words = self._code_map.relocations.entries
        return set(words["value"][words["kind"] == R_386_32].tolist())

    def joining(self) -> list[int]:
        """Addresses held by words from which control runs into what was reached, without a call."""
        seen: set[int] = set()
        pending = list(self.reached)
        while pending:
            new = self._predecessors(pending.pop()) - seen - self.reached.keys()
            seen |= new
            pending += new
        return sorted(seen & self._taken)

    def _predecessors(self, va: int) -> set[int]:
        """Instructions from which control goes to `va`, but by calls."""
        result: set[int] = set()
        for stream in self._code_map.streams.values():
            for index in stream.branches[stream.branch_targets == va].tolist():
                if stream.flows[index] != Flow.CALL:
                    result.add(int(stream.starts[index]))
        stream_here = self._code_map.stream_at(va)
        index = -1 if stream_here is None else stream_here.index_of(va)
        if stream_here is not None and index > 0 and self._runs_on(stream_here, index - 1, va):
            result.add(int(stream_here.starts[index - 1]))
        return result

    def _runs_on(self, stream: InstructionStream, index: int, va: int) -> bool:
        """Whether control goes on at `va`, which follows the instruction.

        A call in front of what is entered from elsewhere is the end of a function: of panic(), say.
        """
        flow = stream.flows[index]
        if flow in (Flow.STOP, Flow.JUMP) or va in self._entries or _turns_paging_on(stream, index):
            return False
        return flow != Flow.CALL or va not in self._taken

    def exclusive_callees(self) -> list[int]:
        """Functions called from here that have no other caller and whose address is not taken.

        Not what is called inside of an instruction: nothing more is ever reached from there.
        """
        return [
            va
            for va in sorted(self._callees - self.reached.keys())
            if va not in self._taken
            and va != self._hook_va
            and self._callers(va) <= self.reached.keys()
            and _is_instruction(self._code_map, va)
        ]

    def _callers(self, va: int) -> set[int]:
        return {
            int(stream.starts[index])
            for stream in self._code_map.streams.values()
            for index in stream.branches[stream.branch_targets == va].tolist()
        }

    def ranges(self) -> list[tuple[int, int]]:
        """The code that was reached, as merged ranges."""
        merged: list[tuple[int, int]] = []
        for va in sorted(self.reached):
            end = va + self.reached[va]
            if merged and merged[-1][1] == va:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((va, end))
        return merged
