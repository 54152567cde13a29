# SPDX-License-Identifier: MIT
"""How does a site get its call where the code around it cannot make room?

A window of whole instructions around it, five bytes or more, becomes a near jump to a trampoline:
the same instructions out of line, the site as long as a call, and a jump back. Nothing moves.
The window is entered at its first byte alone: nothing known leads into it, no table names an
instruction of it, and no address that stays because of a doubt lies in it. Its relocated words go
along, and so do their relocations; those of a site itself do not, as thunks may repeat them.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vmipatch.image.ascending import distinct
from vmipatch.image.relocations import R_386_32, WORD_LEN
from vmipatch.isa.decode import Flow, InstructionStream
from vmipatch.rewrite.address_map import AddressMap
from vmipatch.rewrite.body import NativeBody
from vmipatch.rewrite.emit_code import INT3, NEAR_CONDITION, NEAR_JUMP
from vmipatch.rewrite.fixed import overlap
from vmipatch.scan.scan import ScanResult
from vmipatch.scan.site import Site
from vmipatch.tables.entry_text import entry_text
from vmipatch.tables.table import Role

JUMP_LEN = 5
WORD_MASK = 0xFFFFFFFF
FARTHEST = 6
"""Instructions in front of a site and after it that a window may take along."""
NEAR_CALL_OPCODE = b"\xe8"


@dataclass(frozen=True, slots=True)
class Window:
    """Whole instructions that a jump replaces, and the sites among them."""

    start_va: int
    end_va: int
    sites: tuple[Site, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end_va - self.start_va


@dataclass(frozen=True, slots=True)
class Trampoline:
    """The code of one window out of line; addresses are those of the new image."""

    window: Window
    va: int
    code: bytes
    places: Mapping[int, int] = field(hash=False)
    """Where each site of the window is now, by its original address."""
    words: Mapping[int, int] = field(hash=False)
    """Where each relocated word of the window is now, by its original address."""
    comes_back: bool
    """Whether it ends with a jump back after the window."""

    def jump(self, window_va: int) -> bytes:
        """The bytes of the window, which is now at `window_va`."""
        distance = self.va - window_va - JUMP_LEN
        return (NEAR_JUMP + struct.pack("<I", distance & WORD_MASK)).ljust(self.window.size, INT3)


def find_windows(
    scanned: ScanResult,
    pending: Iterable[Site],
    changed: Iterable[tuple[int, int]],
    fixed: Sequence[tuple[int, int]],
) -> list[Window]:
    """A window for each site of `pending` that has one, disjoint, in address order.

    `changed` are the ranges of what changes its length in the new layout; empty ones are places
    where something is put in.
    """
    finder = _Finder(scanned, list(pending), changed, fixed)
    result: list[Window] = []
    for site in sorted(finder.pending.values(), key=lambda s: s.va):
        if result and site.va < result[-1].end_va:
            continue  # the window before took it along
        window = finder.find(site, result[-1].end_va if result else 0)
        if window is not None:
            result.append(window)
    return result


class _Finder:
    """Places that no window may hold."""

    def __init__(
        self,
        scanned: ScanResult,
        pending: Sequence[Site],
        changed: Iterable[tuple[int, int]],
        fixed: Sequence[tuple[int, int]],
    ) -> None:
        self._code_map, self._zones, self._fixed = scanned.code_map, scanned.zones, fixed
        self.pending = {site.va: site for site in pending}
        others = [(s.va, s.end_va) for s in scanned.sites if s.va not in self.pending]
        self._kept = sorted([*others, *changed])
        self._entry = entry_text(scanned.image.symbols)
        tables = [t.words for t in scanned.code_map.tables]
        patched = (Role.INSTRUCTION, Role.OPERAND)
        named = [w["target_va"][np.isin(w["role"], patched)].astype(np.int64) for w in tables]
        named += [t.words["va"].astype(np.int64) for t in scanned.code_map.tables if t.in_code]
        self._named = distinct(np.concatenate([np.zeros(0, np.int64), *named]))
        self._words = scanned.code_map.relocations.entries
        self._word_vas = self._words["va"].astype(np.int64)

    def find(self, site: Site, from_va: int) -> Window | None:
        """The smallest window around `site` that begins at `from_va` or after it."""
        stream = self._code_map.stream_at(site.va)
        assert stream is not None, "a site lies in code"
        first = stream.index_of(site.va)
        following = stream.index_over(site.end_va - 1) + 1
        if site.forms[-1].kind == "sti":
            following += 1  # the shadow of sti lies on the instruction that followed it
        best: Window | None = None
        for start in range(first, max(first - FARTHEST, -1), -1):
            for stop in range(following, min(following + FARTHEST, len(stream))):
                window = self._window(stream, start, stop)
                if window.start_va < from_va or window.size < JUMP_LEN:
                    continue
                if (best is None or window.size < best.size) and self._is_good(
                    stream, start, stop, window
                ):
                    best = window
                break
        return best

    def _window(self, stream: InstructionStream, start: int, stop: int) -> Window:
        start_va, end_va = int(stream.starts[start]), int(stream.starts[stop])
        inside = [s for va, s in self.pending.items() if start_va <= va < end_va]
        return Window(start_va, end_va, tuple(sorted(inside, key=lambda s: s.va)))

    def _is_good(self, stream: InstructionStream, start: int, stop: int, window: Window) -> bool:
        inner, whole = (window.start_va + 1, window.end_va), (window.start_va, window.end_va)
        if any(site.end_va > window.end_va for site in window.sites):
            return False
        if self._entry[0] <= window.start_va < self._entry[1]:
            return False  # the jump would target memory that is not mapped there
        if _between(self._code_map.targets, *inner) or _between(self._named, *whole):
            return False
        if _shares(self._kept, *whole):
            return False
        if self._zones.over(*whole) is not None or overlap(*whole, self._fixed):
            return False
        if any(_between(self._word_vas, site.va, site.end_va) for site in window.sites):
            return False
        if not self._words_follow(stream, window):
            return False
        linked = self._code_map.linked_targets(stream)
        mine = slice(*np.searchsorted(stream.branches, (start, stop)))
        if (linked[mine] != stream.branch_targets[mine]).any():
            return False  # it runs where the kernel is loaded, as what is out of line does not
        hook = self._code_map.hook
        if hook is not None and np.isin(stream.starts[stream.branches[mine]], hook.branches).any():
            return False  # it is redirected where it stands
        flows = stream.flows[start:stop]
        ends = np.isin(flows[:-1], (Flow.STOP, Flow.JUMP)).any()
        return not ends and not np.isin(flows, (Flow.LOOP, Flow.NARROW)).any()

    def _words_follow(self, stream: InstructionStream, window: Window) -> bool:
        """Whether every relocated word is absolute, or the displacement of a direct branch."""
        low, high = np.searchsorted(self._word_vas, (window.start_va, window.end_va))
        for row in self._words[low:high][self._words["kind"][low:high] != R_386_32]:
            index = stream.index_over(int(row["va"]))
            at_end = (
                int(stream.starts[index]) + int(stream.lens[index]) == int(row["va"]) + WORD_LEN
            )
            if not at_end or stream.flows[index] not in (Flow.CALL, Flow.JUMP, Flow.CONDITION):
                return False
        return True


def build(
    windows: Sequence[Window],
    streams: Iterable[InstructionStream],
    bodies: Mapping[int, NativeBody],
    new: AddressMap,
    va: int,
    words: np.ndarray,
) -> list[Trampoline]:
    """The trampolines of `windows`, one after the other from `va` on.

    `words` are the addresses of relocated words, ascending (i64).
    """
    sections = list(streams)
    result = []
    for window in windows:
        stream = next(s for s in sections if s.va <= window.start_va < s.end_va)
        trampoline = _build_one(window, stream, bodies, new, va, words)
        result.append(trampoline)
        va += len(trampoline.code)
    return result


def with_jumps(
    code: bytes, stream: InstructionStream, trampolines: Iterable[Trampoline], new: AddressMap
) -> bytes:
    """`code`, the new bytes of `stream`, with the jumps to its trampolines."""
    result = bytearray(code)
    for trampoline in trampolines:
        window = trampoline.window
        if stream.va <= window.start_va < stream.end_va:
            va = new.one(window.start_va)
            at = va - new.one(stream.va)
            result[at : at + window.size] = trampoline.jump(va)
    return bytes(result)


def _build_one(
    window: Window,
    stream: InstructionStream,
    bodies: Mapping[int, NativeBody],
    new: AddressMap,
    va: int,
    words: np.ndarray,
) -> Trampoline:
    code = bytearray()
    moved: dict[int, int] = {}
    places: dict[int, int] = {}
    sites = {site.va: site for site in window.sites}
    index, stop = stream.index_of(window.start_va), stream.index_of(window.end_va)
    flow = Flow.NEXT
    while index < stop:
        at = int(stream.starts[index])
        flow = Flow(int(stream.flows[index]))
        if at in sites:
            places[at] = va + len(code)
            code += bodies[at].code
            index = stream.index_over(sites[at].end_va - 1)
            flow = Flow(int(stream.flows[index]))
        else:
            code += _out_of_line(stream, index, flow, new, va + len(code))
            # Operands are what an instruction ends with, in its near form, too.
            shift = va + len(code) - (at + int(stream.lens[index]))
            low, high = np.searchsorted(words, (at, at + int(stream.lens[index])))
            moved |= {word: word + shift for word in words[low:high].tolist()}
        index += 1
    comes_back = flow not in (Flow.STOP, Flow.JUMP)
    if comes_back:
        back = new.one(window.end_va) - (va + len(code)) - JUMP_LEN
        code += NEAR_JUMP + struct.pack("<I", back & WORD_MASK)
    return Trampoline(window, va, bytes(code), places, moved, comes_back)


def _out_of_line(
    stream: InstructionStream, index: int, flow: Flow, new: AddressMap, va: int
) -> bytes:
    """One instruction, to stand at `va`; a direct branch in its near form."""
    old = stream.bytes_at(index)
    if flow not in (Flow.CALL, Flow.JUMP, Flow.CONDITION):
        return old
    at = int(np.searchsorted(stream.branches, index))
    target = new.one(int(stream.branch_targets[at]))
    if flow is Flow.CONDITION:
        short = int(stream.branch_widths[at]) == 1
        condition = old[-2] if short else old[-5]
        opcode = bytes((0x0F, NEAR_CONDITION | condition & 15))
    else:
        opcode = NEAR_CALL_OPCODE if flow is Flow.CALL else NEAR_JUMP
    return opcode + struct.pack("<I", (target - va - len(opcode) - 4) & WORD_MASK)


def _between(ascending: np.ndarray, start_va: int, end_va: int) -> bool:
    at = int(np.searchsorted(ascending, start_va))
    return at < len(ascending) and int(ascending[at]) < end_va


def _shares(ranges: Sequence[tuple[int, int]], start_va: int, end_va: int) -> bool:
    """Whether one of `ranges` (ascending) begins in [start_va, end_va) or reaches into it.

    Of ranges that begin before it only the last can reach so far: no two share bytes but those of
    one site, as it was found and as what changes.
    """
    at = bisect_left(ranges, (start_va,))
    begins = at < len(ranges) and ranges[at][0] < end_va
    return begins or (at > 0 and ranges[at - 1][1] > start_va)
