# SPDX-License-Identifier: MIT
"""May the instructions of a window stand in a trampoline, and is there need for it?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from vmipatch.image.ascending import distinct
from vmipatch.isa.classify import classify
from vmipatch.isa.decode import decode
from vmipatch.isa.second import decode_second
from vmipatch.tables.entry_text import entry_text
from vmipatch.tables.table import Role
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.outline import JUMP_LEN, TRAMPOLINES, Window
from vmipatch.verify.static.rules import WINDOW


@judges(WINDOW)
def check_whole_windows(comparison: Comparison) -> None:
    """Each window is whole instructions for both decoders, holds a recorded site, and nothing at
    its edges that could have stayed.
    """
    for window, moved_va, moved_end_va in _moved(comparison):
        edges = _edges(comparison, window)
        fault = "it begins or ends inside of an instruction"
        if edges is not None:
            recorded = _recorded(comparison, moved_va, moved_end_va)
            fault = _superfluous(comparison, edges, recorded) or ""
        if fault:
            comparison.report.add(WINDOW, window.start_va, fault)


def _moved(comparison: Comparison) -> list[tuple[Window, int, int]]:
    """Each window, and where its instructions stand in the original that is out of line."""
    section = comparison.original.section_by_name.get(TRAMPOLINES)
    if section is None:
        return []
    windows = sorted(comparison.manifest.windows, key=lambda window: window.start_va)
    found = []
    for window in windows:
        section_there = comparison.original.section_at(window.start_va)
        if section_there is None or window.start_va + JUMP_LEN > section_there.end_va:
            continue  # it is not code of the original, which was reported
        jump = comparison.original.read(window.start_va, JUMP_LEN)
        reach = int.from_bytes(jump[1:], "little", signed=True)
        moved_va = (window.start_va + JUMP_LEN + reach) & 0xFFFFFFFF
        if moved_va in section:  # else there was not room for a jump, which was reported
            found.append((window, moved_va))
    if not found:
        return []
    ends = [*(va for _, va in found[1:]), section.end_va]
    return [(window, va, end_va) for (window, va), end_va in zip(found, ends, strict=True)]


def _edges(comparison: Comparison, window: Window) -> list[int] | None:
    """Starts of the window's instructions, and its end; None if the decoders see others."""
    chunks = comparison.chunks
    at = np.flatnonzero((chunks.o_va <= window.start_va) & (window.end_va <= chunks.o_end))
    if not len(at):
        return None
    start_va, end_va = int(chunks.o_va[at[0]]), int(chunks.o_end[at[0]])
    code = comparison.inputs.original.read(start_va, end_va - start_va)
    found = []
    for starts in (decode_second(code, start_va).starts, decode(code, start_va).starts):
        inside = {va for va in (*starts.tolist(), end_va) if window.start_va <= va <= window.end_va}
        found.append(inside)
    first, second = found
    if first != second or not {window.start_va, window.end_va} <= first:
        return None
    return sorted(first)


def _recorded(comparison: Comparison, moved_va: int, moved_end_va: int) -> list[bool]:
    """For each moved instruction whether it belongs to a record's site; not for the jump back."""
    left = comparison.left
    low, high = np.searchsorted(left.starts, (moved_va, moved_end_va))
    new = comparison.paired.new_of[low:high]
    bodies = comparison.bodies.body_of
    return [bool(index >= 0 and bodies[index] >= 0) for index in new.tolist()]


def _superfluous(comparison: Comparison, edges: list[int], recorded: list[bool]) -> str | None:
    """Instructions of the window that could have stayed; None if there are none."""
    lens = [high - low for low, high in pairwise(edges)]
    recorded = recorded[: len(lens)]
    if not any(recorded):
        return "it holds no site that has a record"
    size = sum(lens)
    if not recorded[0] and size - lens[0] >= JUMP_LEN:
        return "its first instruction could have stayed"
    shadowed = len(lens) > 1 and recorded[-2] and _is_sti(comparison, edges[-3])
    if not recorded[-1] and size - lens[-1] >= JUMP_LEN and not shadowed:
        return "its last instruction could have stayed"
    return None


def _is_sti(comparison: Comparison, va: int) -> bool:
    """Whether a sti is there: what follows it stands in its shadow."""
    form = classify(comparison.inputs.original.read(va, 1))
    return form is not None and form.kind == "sti"


@judges(WINDOW)
def check_windows(comparison: Comparison) -> None:
    """Nothing points into a window after its first byte, no table names code of it, and it is not
    entry code.
    """
    entry_va, entry_end_va = entry_text(comparison.original.symbols)
    patched = (Role.INSTRUCTION, Role.OPERAND)
    named = [t.words["target_va"][np.isin(t.words["role"], patched)] for t in comparison.tables]
    places = [t.places["va"] for t in comparison.tables]
    held = distinct(np.concatenate([comparison.places, *named, *places]).astype(np.int64))
    led_to = np.concatenate([comparison.targets, comparison.chunks.o_va, comparison.inner])
    led_to = distinct(led_to)
    for window in comparison.manifest.windows:
        if window.start_va < entry_end_va and window.end_va > entry_va:
            message = "leads out of the entry code, to what user space's page tables do not map"
            comparison.report.add(WINDOW, window.start_va, message)
        for vas, first_va, what in (
            (led_to, window.start_va + 1, "something targets"),
            (held, window.start_va, "the kernel counts on"),
        ):
            at = int(np.searchsorted(vas, first_va))
            if at < len(vas) and int(vas[at]) < window.end_va:
                message = f"{what} {int(vas[at]):#x}, inside of it"
                comparison.report.add(WINDOW, window.start_va, message)
