# SPDX-License-Identifier: MIT
"""The original with some of its windows moved out of line, as trampolines stand for them.

A site may be rewritten through a trampoline: a window of whole instructions becomes a jump, the
instructions stand elsewhere, and a jump leads back. Here the same is done to the original, byte by
byte as it is: then the output has to be this file under an address map, as ever. That the move
itself changes nothing follows from the window being entered at its first byte alone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vmipatch.image.ascending import distinct
from vmipatch.image.elf import ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.types import Section, SectionFlag, SectionKind
from vmipatch.isa.second import Leaves, decode_second
from vmipatch.tables.entry_text import entry_text
from vmipatch.tables.table import Role, Tables
from vmipatch.verify.static.rules import WINDOW
from vmipatch.verify.static.side import I64
from vmipatch.verify.static.verdict import Report

TRAMPOLINES = ".vmi.trampolines"
JUMP_LEN = 5
NEAR_JUMP, NEAR_CALL, INT3 = b"\xe9", b"\xe8", b"\xcc"
GAP = 0x100000
"""Behind the image, far enough that nothing of it is meant."""


@dataclass(frozen=True, slots=True)
class Window:
    """Instructions of the original, [start, end), that stand in a trampoline in the output."""

    start_va: int
    end_va: int


def outline(original: ElfImage, windows: Sequence[Window], report: Report) -> ElfImage:
    """`original` with its `windows` out of line, in one more section; itself if there are none."""
    if not windows:
        return original
    data = bytearray(original.data)
    end_va = max(load.va + load.mem_len for load in original.loads)
    va = (-(-end_va // GAP) + 1) * GAP
    moved = bytearray()
    before = 0
    for window in sorted(windows, key=lambda w: w.start_va):
        section = original.section_at(window.start_va)
        fits = section is not None and section.is_exec and window.end_va <= section.end_va
        if not fits or window.end_va - window.start_va < JUMP_LEN or window.start_va < before:
            message = f"[{window.start_va:#x}, {window.end_va:#x}) is no room for a jump"
            report.add(WINDOW, window.start_va, message)
            continue
        before = window.end_va
        here = va + len(moved)
        size = window.end_va - window.start_va
        code = original.read(window.start_va, size)
        moved += _moved(code, window, here)
        jump = NEAR_JUMP + _distance(here, window.start_va + JUMP_LEN)
        off = original.offset_of(window.start_va)
        data[off : off + size] = jump.ljust(size, INT3)
        report.counts["trampolines"] += 1
    return _with_section(replace(original, data=bytes(data)), va, bytes(moved))


def check_windows(
    original: ElfImage,
    windows: Sequence[Window],
    led_to: I64,
    relocated: I64,
    tables: Tables,
    report: Report,
) -> None:
    """Nothing leads into a window behind its first byte, no table names code of it, and it is no
    entry code.

    `led_to` is what branches, words and tables lead to; `relocated` the places of words.
    """
    entry_va, entry_end_va = entry_text(original.symbols)
    patched = (Role.INSTRUCTION, Role.OPERAND)
    named = [t.words["target_va"][np.isin(t.words["role"], patched)] for t in tables]
    places = [t.places["va"] for t in tables]
    held = distinct(np.concatenate([relocated, *named, *places]).astype(np.int64))
    for window in windows:
        if window.start_va < entry_end_va and window.end_va > entry_va:
            message = "leads out of the entry code, to what user space's page tables do not map"
            report.add(WINDOW, window.start_va, message)
        for vas, first_va, what in (
            (led_to, window.start_va + 1, "something leads to"),
            (held, window.start_va, "the kernel counts on"),
        ):
            at = int(np.searchsorted(vas, first_va))
            if at < len(vas) and int(vas[at]) < window.end_va:
                message = f"{what} {int(vas[at]):#x}, inside of it"
                report.add(WINDOW, window.start_va, message)


def _moved(code: bytes, window: Window, here_va: int) -> bytes:
    """The instructions of a window at their new address, and the jump back."""
    decoded = decode_second(code, window.start_va)
    result = bytearray()
    leaves = Leaves.NEXT
    for index in range(len(decoded)):
        at = int(decoded.starts[index]) - window.start_va
        one = code[at : at + int(decoded.lens[index])]
        leaves, width = Leaves(int(decoded.leaves[index])), int(decoded.widths[index])
        if width in (1, 4) and leaves is not Leaves.LOOP:
            disp = int.from_bytes(one[-width:], "little", signed=True)
            target = window.start_va + at + len(one) + disp
            opcode = _near_opcode(one[: len(one) - width], leaves)
            one = opcode + _distance(target, here_va + len(result) + len(opcode) + 4)
        result += one
    if leaves not in (Leaves.STOP, Leaves.JUMP):
        result += NEAR_JUMP + _distance(window.end_va, here_va + len(result) + JUMP_LEN)
    return bytes(result)


def _near_opcode(opcode: bytes, leaves: Leaves) -> bytes:
    if leaves is Leaves.CONDITION:
        return bytes((0x0F, 0x80 | opcode[-1] & 15))
    return NEAR_CALL if leaves is Leaves.CALL else NEAR_JUMP


def _distance(target_va: int, from_va: int) -> bytes:
    return struct.pack("<I", (target_va - from_va) & 0xFFFFFFFF)


def _with_section(image: ElfImage, va: int, code: bytes) -> ElfImage:
    """`image` with one more section of code, the last by number."""
    loaded = max(s.off + s.file_len for s in image.loads)
    contents = [Content(s, image.section_bytes(s)) for s in image.sections]
    flags = SectionFlag.ALLOC | SectionFlag.EXEC
    section = Section(
        len(contents), TRAMPOLINES, SectionKind.PROGBITS, flags, va, loaded, len(code), 0, 0, 1, 0
    )
    contents.append(Content(section, code))
    memory = image.data[:loaded] + code
    return ElfImage.parse(write_elf(image, memory, contents, image.segments), image.name)
