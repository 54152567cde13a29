# SPDX-License-Identifier: MIT
"""Where is an address of the original in the output?

The proof's own address map, built from the paired instructions; it owes nothing to the one that
the rewriter worked with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vmipatch.image.elf import ElfImage
from vmipatch.verify.static.code import CodePair
from vmipatch.verify.static.fillers import KeptFillers
from vmipatch.verify.static.matching import Match
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.side import I64, Flags

NOWHERE = -1
U32 = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """The images of addresses; NOWHERE for those that have none."""

    code_o: I64
    """Addresses in code that have an image, ascending."""
    code_p: U32
    """Where a branch to each must lead: the start of the body, where it begins one."""
    self_p: U32
    """Where the instruction itself stands, after the padding in front of it."""
    exec_start: I64
    """Executable sections of the original, ascending."""
    exec_end: I64
    data_start: I64
    """Starts of the sections of the original that occupy memory, ascending.

    Without the one that `outline` puts after the kernel: addresses beyond it are not its own."""
    data_delta: I64
    """How far each of them moved."""
    physical: int
    """Linked less physical addresses."""

    @classmethod
    def of(
        cls,
        code: CodePair,
        paired: Match,
        kept: KeptFillers,
    ) -> Images:
        """Build the map; of several images of an address the instruction's counts."""
        left, right, chunks, bodies = code.left, code.right, code.chunks, code.bodies
        original, output = left.image, right.image
        fillers = kept.starts
        moved = fillers + kept.deltas
        gap_o = np.array([g.o_va for g in kept.gaps], np.int64)
        gap_p = np.array([g.p_va for g in kept.gaps], np.int64)
        ends = np.array([s.end_va for s in left.sections], np.int64)
        ends_p = np.array([_end_in(original, output, int(va)) for va in ends], np.int64)
        sources = [left.starts[paired.o], fillers, chunks.o_va, gap_o, ends]
        code_o, first = np.unique(np.concatenate(sources), return_index=True)
        del sources
        others = [moved, chunks.p_va, gap_p, ends_p]
        led_p, self_p = (
            np.concatenate([of_instructions(paired.p), *others]).astype(np.uint32)[first]
            for of_instructions in (bodies.begins, right.starts.__getitem__)
        )
        sections = [s for s in original.allocated_sections if s.name != TRAMPOLINES]
        starts = np.array([s.va for s in sections], np.int64)
        deltas = np.array([output.sections[s.index].va - s.va for s in sections], np.int64)
        return cls(
            code_o,
            led_p,
            self_p,
            np.array([s.va for s in left.sections], np.int64),
            ends,
            starts,
            deltas,
            original.page_offset,
        )

    def with_operands(self, vas: I64, new_vas: I64) -> Images:
        """The same map, with labels at `vas` that are inside of instructions, now at `new_vas`."""
        known = new_vas != NOWHERE
        if not known.any():
            return self
        code_o = np.concatenate([self.code_o, vas[known]])
        order = np.argsort(code_o, kind="stable")
        led, itself = (
            np.concatenate([column, new_vas[known].astype(np.uint32)])[order]
            for column in (self.code_p, self.self_p)
        )
        return replace(self, code_o=code_o[order], code_p=led, self_p=itself)

    def in_code(self, vas: I64) -> Flags:
        """Whether each address lies in an executable section of the original, or at its end."""
        at = np.searchsorted(self.exec_start, vas, side="right") - 1
        return np.asarray((at >= 0) & (vas <= self.exec_end[np.maximum(at, 0)]))

    def __call__(self, vas: I64) -> I64:
        """The address in the output that a reference to each address must hold."""
        return self._look_up(vas, self.code_p)

    def itself(self, vas: I64) -> I64:
        """Where the instruction at each address stands in the output."""
        return self._look_up(vas, self.self_p)

    def as_data(self, vas: I64) -> I64:
        """Where each address goes if it names data, or a place between sections."""
        at = np.searchsorted(self.data_start, vas, side="right") - 1
        return vas + np.where(at >= 0, self.data_delta[np.maximum(at, 0)], 0)

    def one(self, va: int) -> int:
        """The image of one address."""
        return int(self(np.array([va], np.int64))[0])

    def _look_up(self, vas: I64, column: U32) -> I64:
        at = np.minimum(np.searchsorted(self.code_o, vas), len(self.code_o) - 1)
        exact = self.code_o[at] == vas
        elsewhere = np.where(self.in_code(vas), NOWHERE, self.as_data(vas))
        return np.where(exact, column[at], elsewhere)


def words_in_code(code: CodePair, paired: Match, vas: I64) -> I64:
    """Where words inside instructions of the original stand in the output, NOWHERE if lost.

    A word keeps its distance to the end of its instruction: prefixes come in front, and a
    branch that becomes near has its displacement at the end too.
    """
    left, right = code.left, code.right
    over = left.over(vas)
    new = np.where(over >= 0, paired.new_of[np.maximum(over, 0)], NOWHERE)
    from_end = left.ends[over] - vas
    return np.where(new >= 0, right.ends[new] - from_end, NOWHERE)


def _end_in(original: ElfImage, output: ElfImage, end_va: int) -> int:
    """Where the end of an executable section went.

    It stays right in front of what follows the section, wherever its bytes end now: page tables
    are made from the end of .text. Only where the section grew into the gap it is the new end.
    """
    section = next(s for s in original.executable_sections if s.end_va == end_va)
    following = [s for s in original.allocated_sections if s.va >= end_va and s.size]
    follower = min(following, key=lambda s: s.va, default=section)
    moved = output.sections[follower.index].va - follower.va
    return max(output.sections[section.index].end_va, end_va + moved)
