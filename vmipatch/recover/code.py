# SPDX-License-Identifier: MIT
"""What lies at an address of code, in a kernel whose references are not known yet?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from vmipatch.isa.decode import Flow, InstructionStream, Shape

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class RecoveredCode:
    """All code of an image, for questions about many addresses at once."""

    def __init__(self, streams: Iterable[InstructionStream], functions: I64) -> None:
        """Take the decoded sections in address order, and the addresses of functions."""
        self.streams = tuple(streams)
        self.functions = functions
        self._starts = np.concatenate([s.starts.astype(np.int64) for s in self.streams])

    def within(self, vas: I64) -> Flags:
        """Which addresses lie in a section of code, or at its end."""
        result = np.zeros(len(vas), np.bool_)
        for stream in self.streams:
            result |= (vas >= stream.va) & (vas <= stream.end_va)
        return result

    def begins(self, vas: I64) -> Flags:
        """Which addresses are the first of an instruction."""
        at = np.minimum(np.searchsorted(self._starts, vas), len(self._starts) - 1)
        return np.asarray(self._starts[at] == vas)

    def function_of(self, vas: I64) -> I64:
        """Start of the function that holds each address, 0 in front of the first."""
        at = np.searchsorted(self.functions, vas, side="right") - 1
        return np.where(at >= 0, self.functions[np.maximum(at, 0)], 0)

    def extent_of(self, va: int) -> tuple[int, int]:
        """The function that holds `va`, up to the next or the end of its section; else nothing."""
        stream = self.stream_at(va)
        at = int(np.searchsorted(self.functions, va, side="right"))
        if stream is None or not at or self.functions[at - 1] < stream.va:
            return 0, 0
        following = int(self.functions[at]) if at < len(self.functions) else stream.end_va
        return int(self.functions[at - 1]), min(following, stream.end_va)

    def is_executed(self, va: int) -> bool:
        """Whether a branch targets `va`, or the instruction in front of it runs on."""
        stream = self.stream_at(va)
        if stream is None:
            return False
        before = stream.index_over(va) - 1
        runs_on = before >= 0 and (
            Flow(int(stream.flows[before])) not in (Flow.STOP, Flow.JUMP)
            and int(stream.shapes[before]) == Shape.CODE
        )
        return runs_on or any(bool((s.branch_targets == va).any()) for s in self.streams)

    def stream_at(self, va: int) -> InstructionStream | None:
        """The section that holds `va`."""
        return next((s for s in self.streams if s.va <= va < s.end_va), None)


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same addresses as ascending, disjoint ranges."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return tuple(result)
