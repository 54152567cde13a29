# SPDX-License-Identifier: MIT
"""Is the code that was added tied to the kernel as it should be, and nowhere else?

What the added code does is the business of other tests. Here: who enters it, where it goes on,
which kernel addresses it holds, and whether the tables that the runtime walks name what they say.
"""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np

from vmipatch.image.ascending import among
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import RAW_REL, Relocations
from vmipatch.image.types import Section
from vmipatch.isa.classify import classify
from vmipatch.isa.second import instruction_len
from vmipatch.verify.static.bodies import Bodies
from vmipatch.verify.static.candidates import candidates
from vmipatch.verify.static.images import Images
from vmipatch.verify.static.manifest import Manifest
from vmipatch.verify.static.rules import (
    ADDED_WORD,
    FALLBACK_ENTRY,
    REDIRECTED,
    THUNK_CALL,
)
from vmipatch.verify.static.side import I64, Side
from vmipatch.verify.static.verdict import Report
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import MERGE_FLAGS, NEAR_CALL, NEAR_CALL_LEN

NEW_CODE, NEW_RELOCATIONS = ".vmi.text", ".rel.vmi.text"
THUNK_CALLS, FALLBACK = ".vmi.thunks", ".vmi.fallback"
START = "start_kernel"
"""Where the kernel's C code begins: the runtime runs before it (design rule D5)."""
LOADER = "module_finalize"
"""What the module loader calls for a linked module: the runtime patches the module."""
NEAR_JUMP = 0xE9
MERGE_LEN = 7
"""Bytes of the instruction that merges real and virtual flags."""
PAIR = struct.Struct("<II")


def redirected(
    original: ElfImage, output: ElfImage, manifest: Manifest, images: Images, report: Report
) -> dict[int, int]:
    """Which original address branches lead to the added code instead of to its image.

    Only start_kernel and the module loader's hook may be among them, and the added code has to go
    on there.
    """
    code = output.section_by_name.get(NEW_CODE)
    names = {original.symbols.address(name): name for name in (START, LOADER)}
    for old_va, new_va in manifest.redirect.items():
        name = names.get(old_va)
        if name is None:
            place = original.symbols.place_of(old_va)
            report.add(REDIRECTED, new_va, f"{place} is led elsewhere, only {START} may be")
        elif code is None or new_va not in code:
            report.add(REDIRECTED, new_va, f"{name} is led to what is not in {NEW_CODE}")
        elif images.one(old_va) not in _jump_targets(output, code):
            report.add(REDIRECTED, new_va, f"nothing in {NEW_CODE} jumps on to {name}")
        else:
            report.counts["redirected functions"] += 1
    return manifest.redirect


def _jump_targets(output: ElfImage, code: Section) -> set[int]:
    """Where near jumps in the added code may lead: at any byte, as it holds data too."""
    data = np.frombuffer(output.section_bytes(code), np.uint8)
    at = np.flatnonzero(data[: max(len(data) - NEAR_CALL_LEN + 1, 0)] == NEAR_JUMP)
    disp = data[at[:, None] + np.arange(1, NEAR_CALL_LEN)].reshape(-1).view("<i4")
    return set((code.va + at + NEAR_CALL_LEN + disp.astype(np.int64)).tolist())


def check_added_words(output: ElfImage, report: Report) -> None:
    """Each relocated word of the added code repeats one of the kernel's, symbol and value.

    A thunk addresses memory as its site did. A word that no site has would be an address that
    nobody proved.
    """
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


def check_thunk_calls(output: ElfImage, report: Report) -> None:
    """Each entry of the thunks' table names a near call in the added code that is to be aimed."""
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


def check_fallback(
    output: ElfImage,
    side: Side,
    bodies: Bodies,
    replacements: list[tuple[int, int]],
    report: Report,
) -> None:
    """Each entry names an instruction that is silently wrong at CPL 1, and its first byte.

    All such instructions without a record have one entry, but those of alternatives in
    `replacements` (ranges of the output), which run where they are copied to.
    """
    entries = pairs(output, FALLBACK)
    _check_fallback_whole(side, bodies, replacements, Counter(e[2] for e in entries), report)
    for index, va, native_va, first in entries:
        report.counts["fallback entries"] += 1
        found = int(side.find(np.array([native_va]))[0])
        form = classify(side.code(found)) if found >= 0 else None
        where = f"{FALLBACK}[{index}] ({output.symbols.place_of(native_va)})"
        if form is None or not form.is_unprivileged or bodies.body_of[found] >= 0:
            message = f"{native_va:#x} is not an unprivileged instruction without a record"
            report.add(FALLBACK_ENTRY, va, message, where)
        elif side.code(found)[0] != first:
            message = f"{side.code(found)[0]:02x} stands there, the table says {first:02x}"
            report.add(FALLBACK_ENTRY, va, message, where)


def _check_fallback_whole(
    side: Side,
    bodies: Bodies,
    replacements: list[tuple[int, int]],
    listed: Counter[int],
    report: Report,
) -> None:
    which = candidates(side)
    which = which[bodies.body_of[which] < 0]
    copied = np.array(sorted(replacements), np.int64).reshape(-1, 2)
    at = np.searchsorted(copied[:, 0], side.starts[which], side="right") - 1
    if len(copied):
        which = which[(at < 0) | (side.starts[which] >= copied[np.maximum(at, 0), 1])]
    for index in which.tolist():
        va, form = int(side.starts[index]), classify(side.code(index))
        if form is None or not form.is_unprivileged:
            continue
        if listed[va] != 1:
            message = f"{form.name} without a record has {listed[va]} entries in the table"
            report.add(FALLBACK_ENTRY, va, message)


def pairs(output: ElfImage, name: str) -> list[tuple[int, int, int, int]]:
    """Index, address and the two words of each whole entry of a table of pairs."""
    section = output.section_by_name.get(name)
    if section is None:
        return []
    data = output.section_bytes(section)
    rows = enumerate(PAIR.iter_unpack(data[: len(data) // PAIR.size * PAIR.size]))
    return [(i, section.va + i * PAIR.size, first, second) for i, (first, second) in rows]


def lead(images: I64, led_to: I64, redirect: dict[int, int]) -> I64:
    """`images` of the addresses `led_to`, with those that are redirected led there."""
    result = images.copy()
    for old_va, new_va in redirect.items():
        result[led_to == old_va] = new_va
    return result
