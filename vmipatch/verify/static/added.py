# SPDX-License-Identifier: MIT
"""Is the code that was added tied to the kernel as it should be, and nowhere else?

What the added code does is the business of other tests. Here: who enters it, where it goes on,
which kernel addresses it holds, and whether the tables that the runtime walks name what they say.
"""

from __future__ import annotations

import struct

import numpy as np

from vmipatch.image.ascending import among
from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import START
from vmipatch.image.relocations import RAW_REL, Relocations
from vmipatch.image.types import Section
from vmipatch.isa.second import instruction_len
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.rules import (
    ADDED_WORD,
    FALLBACK_ENTRY,
    REDIRECTED,
    THUNK_CALL,
)
from vmipatch.verify.static.verdict import OTHER_START
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import MERGE_FLAGS, NEAR_CALL, NEAR_CALL_LEN

NEW_CODE, NEW_RELOCATIONS = ".vmi.text", ".rel.vmi.text"
THUNK_CALLS, FALLBACK = ".vmi.thunks", ".vmi.fallback"
LOADER = "module_finalize"
"""The module loader's last call for a linked module: the runtime patches the module."""
NEAR_JUMP = 0xE9
MERGE_LEN = 7
"""Bytes of the instruction that merges real and virtual flags."""
PAIR = struct.Struct("<II")


@judges(REDIRECTED)
def check_redirects(comparison: Comparison) -> None:
    """Only start_kernel, or what is named instead of it, and the module loader's hook may be
    reached through the added code, which has to go on there; and the first is.
    """
    original, output, report = comparison.original, comparison.output, comparison.report
    code, hook = output.section_by_name.get(NEW_CODE), comparison.hook
    names: dict[int | None, str] = {}  # without a hook there is no runtime
    start = comparison.manifest.start
    if hook is not None:
        names = {original.symbols.address(LOADER): LOADER, hook.va: start}
        report.counts.update({OTHER_START: 1} if start != START else {})
        if not hook.is_entered:
            report.add(REDIRECTED, hook.va, f"nothing targets {start}: the runtime never runs")
    elif start != START or comparison.inputs.must_run:
        message = f"{start} is not the name of one function of the original"
        report.add(REDIRECTED, 0, message, NEW_CODE)
    for old_va, new_va in comparison.redirect.items():
        name = names.get(old_va)
        if name is None:
            place = original.symbols.place_of(old_va)
            report.add(REDIRECTED, new_va, f"{place} is led elsewhere, only {start} may be")
        elif code is None or new_va not in code:
            report.add(REDIRECTED, new_va, f"{name} is redirected to what is not in {NEW_CODE}")
        elif comparison.images.one(old_va) not in _jump_targets(output, code):
            report.add(REDIRECTED, new_va, f"nothing in {NEW_CODE} jumps on to {name}")
        else:
            report.counts["redirected functions"] += 1


def _jump_targets(output: ElfImage, code: Section) -> set[int]:
    """Where near jumps in the added code may lead: at any byte, as it holds data too."""
    data = np.frombuffer(output.section_bytes(code), np.uint8)
    at = np.flatnonzero(data[: max(len(data) - NEAR_CALL_LEN + 1, 0)] == NEAR_JUMP)
    disp = data[at[:, None] + np.arange(1, NEAR_CALL_LEN)].reshape(-1).view("<i4")
    return set((code.va + at.astype(np.int64) + NEAR_CALL_LEN + disp).tolist())


@judges(ADDED_WORD)
def check_added_words(comparison: Comparison) -> None:
    """Each relocated word of the added code repeats one of the kernel's, symbol and value.

    A thunk addresses memory as its site did. A word that no site has would be an address that
    is not proven.
    """
    output, report = comparison.output, comparison.report
    rel, code = output.section_by_name.get(NEW_RELOCATIONS), output.section_by_name.get(NEW_CODE)
    if rel is None or code is None:
        return
    entries = Relocations.of(output).entries
    mine = entries["section"] == code.index
    meaning = entries[["symbol", "kind", "value"]]
    known = set(meaning[~mine & among(entries["value"], np.sort(entries["value"][mine]))].tolist())
    report.counts["relocation entries"] += int(mine.sum())
    for va, word in zip(entries["va"][mine].tolist(), meaning[mine].tolist(), strict=True):
        if word not in known:
            report.add(ADDED_WORD, va, f"holds {word[2]:#x}, as no word of the kernel does")
    raw = np.frombuffer(output.section_bytes(rel), RAW_REL)
    if len(raw) != int(mine.sum()):
        report.add(ADDED_WORD, code.va, "it has relocations of other kinds than words", rel.name)


@judges(THUNK_CALL, FALLBACK_ENTRY)
def check_thunk_calls(comparison: Comparison) -> None:
    """Each entry of the thunks' table names a near call in the added code that is to be aimed."""
    output, report = comparison.output, comparison.report
    code = output.section_by_name.get(NEW_CODE)
    for name, rule in ((THUNK_CALLS, THUNK_CALL), (FALLBACK, FALLBACK_ENTRY)):
        section = output.section_by_name.get(name)
        if section is not None and section.size % PAIR.size:
            report.add(rule, section.va, "it has a broken size", name)
    for index, va, target_va, number in pairs(output, THUNK_CALLS):
        report.counts["thunk calls"] += 1
        where = f"{THUNK_CALLS}[{index}]"
        if code is None or not code.va <= target_va <= code.end_va - NEAR_CALL_LEN:
            report.add(THUNK_CALL, va, f"{target_va:#x} is not in {NEW_CODE}", where)
        elif number in VmiCall._value2member_map_:
            if output.read(target_va, NEAR_CALL_LEN) != NEAR_CALL:
                report.add(THUNK_CALL, va, f"no near call to aim is at {target_va:#x}", where)
        elif not _is_merge(output.read(target_va, code.end_va - target_va)[:15], number):
            report.add(THUNK_CALL, va, f"call {number} does not exist", where)


def _is_merge(code: bytes, number: int) -> bool:
    """Whether this is `lea r, [r + eax - 0x200]`, which the runtime may simplify."""
    if number != MERGE_FLAGS or len(code) < MERGE_LEN:
        return False
    is_lea = code[0] == 0x8D and code[1] & 0xC7 == 0x84 and code[2] >> 3 == 0
    disp = struct.unpack_from("<i", code, 3)[0]
    return is_lea and disp == -0x200 and instruction_len(code) == MERGE_LEN


def pairs(output: ElfImage, name: str) -> list[tuple[int, int, int, int]]:
    """Index, address and the two words of each whole entry of a table of pairs."""
    section = output.section_by_name.get(name)
    if section is None:
        return []
    data = output.section_bytes(section)
    rows = enumerate(PAIR.iter_unpack(data[: len(data) // PAIR.size * PAIR.size]))
    return [(i, section.va + i * PAIR.size, first, second) for i, (first, second) in rows]
