# SPDX-License-Identifier: MIT
"""Which branches with one byte of displacement no longer reach their targets?

Most of them become near. Some cannot: loop and jecxz have no near form, what the kernel overwrites
or copies keeps its length. Then sites between the branch and its target have to stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vmipatch.errors import NotSupported, VmipatchError
from vmipatch.image.ascending import among
from vmipatch.isa.decode import Flow, InstructionStream
from vmipatch.limits import Limit
from vmipatch.rewrite.address_map import AddressMap
from vmipatch.rewrite.body import NativeBody, give_up
from vmipatch.rewrite.layout import Change
from vmipatch.scan.code import CodeMap
from vmipatch.scan.hook import LOADER, branches_to
from vmipatch.scan.site import Reason, Site
from vmipatch.scan.zones import Zones
from vmipatch.tables.table import Role, TableName

NEAR_JUMP_LEN, NEAR_CONDITION_LEN = 5, 6
SHORT_JUMP, SHORT_JUMP_LEN = b"\xeb", 2
FARTHEST_BACK, FARTHEST_ON = -128, 127
"""The range of one signed byte."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """A branch that would miss its target by `missing` bytes and cannot become near."""

    va: int
    why: str
    missing: int
    spans: tuple[tuple[int, int], ...]
    """Where growth does harm: between the branch and its target, then over what became near there,
    as [start, end) in the original."""


class OutOfReach(VmipatchError):
    """Some branches miss their targets and cannot be widened."""

    def __init__(self, stuck: Sequence[Stuck]) -> None:
        super().__init__(f"{len(stuck)} short branches miss their targets and cannot be widened")
        self.stuck = tuple(stuck)

    def sites_to_leave(self, sites: Sequence[tuple[Site, NativeBody]]) -> frozenset[int]:
        """Those of `sites` that have to stay as they are, as few as it takes for each branch.

        Raises InputNotUnderstood if a branch crosses no site that grows.
        """
        given: dict[int, int] = {}
        for branch in self.stuck:
            given.update(_given_for(branch, sites, given))
        return frozenset(given)


def _given_for(
    branch: Stuck, sites: Sequence[tuple[Site, NativeBody]], given: Mapping[int, int]
) -> dict[int, int]:
    """Addresses and growth of the sites to leave for `branch`, besides those of `given`."""
    grown = [(s, b) for s, b in sites if len(b.code) > len(s.code)]
    for low, high in branch.spans:
        missing = branch.missing - sum(gain for va, gain in given.items() if low <= va < high)
        if missing <= 0:
            return {}
        inside = [(s, b) for s, b in grown if low <= s.va < high and s.va not in given]
        if inside:
            chosen = give_up(inside, missing)
            return {s.va: len(b.code) - len(s.code) for s, b in inside if s.va in chosen}
    raise NotSupported(
        Limit.STUCK_BRANCH,
        f"a short branch no longer reaches its target and cannot be widened: {branch.why}",
        place=f"{branch.va:#x}",
    )


@dataclass(frozen=True, slots=True)
class Reach:
    """All short branches of a layout; those at `widened` are near already."""

    code_map: CodeMap
    zones: Zones
    new: AddressMap
    widened: Mapping[int, Change] = field(hash=False)

    def to_widen(self) -> list[Change]:
        """The branches that have to become near. Raises OutOfReach for those that cannot."""
        found, stuck = [], []
        for _, stream in self.code_map:
            for index, target_va, missing in self._out_of_reach(stream):
                why = self._why_not(stream, index)
                if why is None:
                    found.append(_near(stream, index))
                else:
                    va = int(stream.starts[index])
                    spans = self._spans(va, va + int(stream.lens[index]), target_va)
                    stuck.append(Stuck(va, why, missing, spans))
        if stuck:
            raise OutOfReach(stuck)
        return found

    def require_jump_labels(self) -> None:
        """Raise OutOfReach if a jump that the kernel may write in 2 bytes would not reach."""
        table = self.code_map.tables.get(TableName.JUMP_TABLE)
        if table is None:
            return
        places = table.places_of(Role.INSTRUCTION)
        targets = table.words["target_va"][table.words["role"] == Role.TARGET]
        short = places["len"] == SHORT_JUMP_LEN
        vas, target_vas = places["va"][short].astype(np.int64), targets[short].astype(np.int64)
        missing = _missing(self.new(target_vas) - (self.new(vas) + SHORT_JUMP_LEN))
        lost = np.flatnonzero(missing)
        stuck = [
            Stuck(va, Reason.PATCHED.value, by, self._spans(va, va + SHORT_JUMP_LEN, target_va))
            for va, target_va, by in zip(
                vas[lost].tolist(), target_vas[lost].tolist(), missing[lost].tolist(), strict=True
            )
            # One that was widened is read from the code, with its length.
            if self.code_map.image.read(va, 1) != SHORT_JUMP
        ]
        if stuck:
            raise OutOfReach(stuck)

    def _out_of_reach(self, stream: InstructionStream) -> Iterator[tuple[int, int, int]]:
        """Index, target and missing bytes of each short branch that is not widened yet."""
        short = stream.branch_widths == 1
        index, target = stream.branches[short], stream.branch_targets[short]
        ends = self.new(stream.starts[index].astype(np.int64)) + stream.lens[index]
        missing = _missing(self.new(target) - ends)
        # The runtime lies after all code.
        to_runtime = among(stream.starts[index].astype(np.int64), self._to_runtime)
        missing = np.where(to_runtime, np.maximum(missing, 1), missing)
        for at in np.flatnonzero(missing).tolist():
            if int(stream.starts[index[at]]) not in self.widened:
                yield int(index[at]), int(target[at]), int(missing[at])

    @property
    def _to_runtime(self) -> np.ndarray:
        """Addresses (i64, ascending) of the branches that will target the runtime."""
        hook, loader = self.code_map.hook, self.code_map.image.symbols.address(LOADER)
        found = [] if hook is None else list(hook.branches)
        if hook is not None and loader is not None:
            found += branches_to(self.code_map, loader)
        return np.array(sorted(set(found)), np.int64)

    def _why_not(self, stream: InstructionStream, index: int) -> str | None:
        """Why a branch cannot become near; None if it can."""
        va = int(stream.starts[index])
        zone = self.zones.over(va, va + int(stream.lens[index]))
        if zone is not None and zone.reason is not Reason.PATCHED:
            return str(zone.reason.value)  # of a jump label the kernel reads the length
        is_loop = stream.flows[index] == Flow.LOOP
        return "loop and jecxz have no near form" if is_loop else None

    def _spans(self, va: int, end_va: int, target_va: int) -> tuple[tuple[int, int], ...]:
        """The items between a branch and its target, and the near branches across them."""
        low, high = min(end_va, target_va), max(va, target_va)
        spans = [(low, high)]
        for _, stream in self.code_map:
            starts = stream.starts[stream.branches].astype(np.int64)
            inside = np.flatnonzero((starts >= low) & (starts < high))
            for start, target in zip(
                starts[inside].tolist(), stream.branch_targets[inside].tolist(), strict=True
            ):
                if start in self.widened:
                    spans.append((min(start, target), max(start, target)))
        return tuple(spans)


def _missing(reach: np.ndarray) -> np.ndarray:
    """By how many bytes each distance (i64) exceeds what one signed byte holds."""
    beyond: np.ndarray = np.maximum(reach - FARTHEST_ON, FARTHEST_BACK - reach).clip(min=0)
    return beyond


def _near(stream: InstructionStream, index: int) -> Change:
    old_len = int(stream.lens[index])
    is_jump = stream.flows[index] == Flow.JUMP
    near_len = NEAR_JUMP_LEN if is_jump else NEAR_CONDITION_LEN
    return Change(int(stream.starts[index]), old_len, old_len - SHORT_JUMP_LEN + near_len)
