# SPDX-License-Identifier: MIT
"""Which code of the original runs only before paging is on?

The same question that the scan answers, answered here from the second decoder's view alone: control
is followed from the boot loader's entry up to the write of CR0 that switches paging on; from each
physical address of an instruction that a word of the image holds, if control from there arrives at
such a write; from what runs into such code and is named by a linked word; and into functions that
nothing else calls or names. The hook is not followed: the runtime precedes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

import numpy as np

from vmipatch.image.ascending import distinct
from vmipatch.image.entry_points import linked_address
from vmipatch.image.relocations import R_386_32
from vmipatch.isa.second import Leaves
from vmipatch.verify.static.side import I64, Flags, Side

PAGING = 0x80
"""The upper byte of CR0 with PG, bit 31."""
MOV_TO_CR = b"\x0f\x22"
FAR_JUMP, FAR_JUMP_LEN = 0xEA, 7


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Where control may go in the original, and what its words hold."""

    side: Side
    offset: int
    """Linked less physical addresses."""
    boot: int
    """Where the boot loader enters, linked."""
    hook: int
    """The function that the runtime precedes, which is not followed; -1 without one."""
    held: I64
    """Values of absolute words, ascending."""
    branch_of: I64
    """For each instruction, the target of the direct branch that it is; -1 for all else."""
    sources: I64
    """Instructions that are direct branches, by target."""
    source_targets: I64
    """The targets of `sources`, ascending."""

    @classmethod
    def of(cls, side: Side, relocated: np.ndarray, offset: int, hook: int = -1) -> Graph:
        """That of one side, whose Relocations.entries are `relocated`."""
        branches = np.flatnonzero(side.widths > 0)
        targets = side.targets(branches)
        branch_of = np.full(len(side), -1, np.int64)
        branch_of[branches] = targets
        order = np.argsort(targets, kind="stable")
        held = distinct(relocated["value"][relocated["kind"] == R_386_32].astype(np.int64))
        boot = linked_address(side.image, side.image.entry)
        return cls(side, offset, boot, hook, held, branch_of, branches[order], targets[order])

    def index(self, va: int) -> int:
        """The instruction at an address, -1 if none begins there."""
        return int(self.side.find(np.array([va], np.int64))[0])

    def is_held(self, va: int) -> bool:
        """Whether an absolute word holds the linked address."""
        at = int(np.searchsorted(self.held, va))
        return at < len(self.held) and int(self.held[at]) == va

    def branches_to(self, va: int) -> list[int]:
        """The direct branches that target an address."""
        low, high = np.searchsorted(self.source_targets, (va, va + 1))
        found: list[int] = self.sources[low:high].tolist()
        return found

    def physical(self) -> list[int]:
        """Instructions whose physical address a word holds, by linked address."""
        if not self.offset:
            return []
        vas = self.held[self.held < self.offset] + self.offset
        found: list[int] = vas[self.side.find(vas) >= 0].tolist()
        return found


@dataclass(slots=True)
class _Way:
    """Instructions that control was followed through."""

    graph: Graph
    astray: Set[int] = frozenset()
    """Instructions from which no write that switches paging on is reached."""
    reached: set[int] = field(default_factory=set)
    entries: set[int] = field(default_factory=set)
    callees: set[int] = field(default_factory=set)
    has_arrived: bool = False

    def follow(self, roots: Iterable[int]) -> None:
        """Follow control from addresses up to where paging is on."""
        pending = list(roots)
        self.entries.update(pending)
        while pending:
            va = pending.pop()
            index = -1 if va == self.graph.hook else self.graph.index(va)
            if index >= 0 and index not in self.reached and index not in self.astray:
                self.reached.add(index)
                pending += self._following(index)

    def _following(self, index: int) -> list[int]:
        side, leaves = self.graph.side, self.graph.side.leaves[index]
        end_va, target = side.end_va(index), int(self.graph.branch_of[index])
        if leaves == Leaves.CALL:
            self.callees.add(target)
            # Before the entry it is the last of a function that does not return.
            return [] if end_va == self.graph.boot else [end_va]
        if leaves == Leaves.JUMP:
            return [target]
        if leaves == Leaves.STOP:
            return self._far_target(side.code(index))
        if target >= 0:
            return [end_va, target]
        if switches_paging_on(side, index):
            self.has_arrived = True
            return []
        return [end_va]

    def _far_target(self, code: bytes) -> list[int]:
        """Where `ljmp seg:constant` goes: before paging to a physical address."""
        if code[0] != FAR_JUMP or len(code) != FAR_JUMP_LEN:
            return []
        target = int.from_bytes(code[1:5], "little")
        return [linked_address(self.graph.side.image, target)]

    def joining(self) -> list[int]:
        """Linked addresses that words hold and from which control runs into what was reached."""
        seen: set[int] = set()
        pending = list(self.reached)
        while pending:
            new = self._before(pending.pop()) - seen - self.reached
            seen |= new
            pending += new
        vas = sorted(int(self.graph.side.starts[index]) for index in seen)
        return [va for va in vas if self.graph.is_held(va)]

    def _before(self, index: int) -> set[int]:
        """Instructions from which control comes to this one without a call."""
        graph, side = self.graph, self.graph.side
        va = int(side.starts[index])
        found = {i for i in graph.branches_to(va) if side.leaves[i] != Leaves.CALL}
        if index and side.end_va(index - 1) == va and self._runs_on(index - 1, va):
            found.add(index - 1)
        return found

    def _runs_on(self, index: int, va: int) -> bool:
        side, leaves = self.graph.side, self.graph.side.leaves[index]
        if leaves in (Leaves.STOP, Leaves.JUMP) or va in self.entries:
            return False
        if switches_paging_on(side, index):
            return False
        return bool(leaves != Leaves.CALL or not self.graph.is_held(va))

    def own_callees(self) -> list[int]:
        """Functions that nothing but what was reached calls, and no word names."""
        starts = {int(self.graph.side.starts[index]) for index in self.reached}
        return [
            va
            for va in sorted(self.callees - starts)
            if not self.graph.is_held(va) and set(self.graph.branches_to(va)) <= self.reached
            and self.graph.index(va) >= 0 and va != self.graph.hook
        ]  # fmt: skip


def before_paging(graph: Graph) -> Flags:
    """For each instruction of the original, whether it runs only before paging is on."""
    way = _Way(graph)
    way.follow([graph.boot])
    way.follow(_second_entries(graph))
    while joining := way.joining():
        way.follow(joining)
    while callees := way.own_callees():
        way.follow(callees)
    result = np.zeros(len(graph.side), np.bool_)
    result[sorted(way.reached)] = True
    return result


def _second_entries(graph: Graph) -> list[int]:
    """Physical addresses that words hold, from which control switches paging on."""
    found: list[int] = []
    astray: set[int] = set()
    for va in graph.physical():
        way = _Way(graph, astray)
        way.follow([va])
        if way.has_arrived:
            found.append(va)
        else:
            astray |= way.reached
    return found


def switches_paging_on(side: Side, index: int) -> bool:
    """Whether this is `mov cr0, r` after `mov r, imm` or `or r, imm` with bit 31 (PG)."""
    code = side.code(index)
    if code[:2] != MOV_TO_CR or code[2] >> 3 & 7 or not index:
        return False
    register, before = code[2] & 7, side.code(index - 1)
    opcodes = [bytes((0xB8 | register,)), bytes((0x81, 0xC8 | register))]
    if not register:
        opcodes.append(b"\x0d")
    return before[:-4] in opcodes and bool(before[-1] & PAGING)
