# SPDX-License-Identifier: MIT
"""The original with some of its windows moved out of line, as trampolines stand for them.

A site may be rewritten through a trampoline: a window of whole instructions becomes a jump, the
instructions stand elsewhere, and a jump leads back. Here the same is done to the original, byte by
byte as it is: then the output has to be this file under an address map, as ever. That the move
itself changes nothing follows from the window being entered at its first byte alone. Relocated
words move with their instructions, and so do their entries: one that patches nothing is left.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.relocations import R_386_NONE, RAW_REL, WORD_LEN, Relocations
from vmipatch.image.types import Section, SectionFlag, SectionKind
from vmipatch.isa.second import Leaves, decode_second
from vmipatch.verify.static.rules import WINDOW
from vmipatch.verify.static.verdict import Report

TRAMPOLINES = ".vmi.trampolines"
JUMP_LEN = 5
NEAR_JUMP, NEAR_CALL, INT3 = b"\xe9", b"\xe8", b"\xcc"
GAP = 0x100000
"""After the image, far enough that nothing of it is meant."""


@dataclass(frozen=True, slots=True)
class Window:
    """Instructions of the original, [start, end), that stand in a trampoline in the output."""

    start_va: int
    end_va: int


@dataclass(slots=True)
class _Moved:
    """Code that stands out of line, from `va` on, and the new places of its words by old ones."""

    va: int
    words: list[int]
    """Addresses of all relocated words, ascending."""
    code: bytearray = field(default_factory=bytearray)
    places: dict[int, int] = field(default_factory=dict)

    @property
    def end_va(self) -> int:
        """Where the next byte goes."""
        return self.va + len(self.code)

    def add(self, one: bytes, old_va: int, old_len: int) -> None:
        """Append the new form of an instruction: operands keep their distance to its end."""
        self.code += one
        low = bisect_left(self.words, old_va)
        high = bisect_left(self.words, old_va + old_len - WORD_LEN + 1)
        shift = self.end_va - (old_va + old_len)
        self.places |= {word: word + shift for word in self.words[low:high]}


def outline(original: ElfImage, windows: Sequence[Window], report: Report) -> ElfImage:
    """`original` with its `windows` out of line, in one more section; itself if there are none."""
    if not windows:
        return original
    data = bytearray(original.data)
    end_va = max(load.va + load.mem_len for load in original.loads)
    va = (-(-end_va // GAP) + 1) * GAP
    moved = _Moved(va, Relocations.of(original).entries["va"].tolist())
    before = 0
    for window in sorted(windows, key=lambda w: w.start_va):
        section = original.section_at(window.start_va)
        fits = section is not None and section.is_exec and window.end_va <= section.end_va
        if not fits or window.end_va - window.start_va < JUMP_LEN or window.start_va < before:
            message = f"[{window.start_va:#x}, {window.end_va:#x}) has no room for a jump"
            report.add(WINDOW, window.start_va, message)
            continue
        before = window.end_va
        here = moved.end_va
        size = window.end_va - window.start_va
        code = original.read(window.start_va, size)
        _move(code, window, moved)
        jump = NEAR_JUMP + _distance(here, window.start_va + JUMP_LEN)
        off = original.offset_of(window.start_va)
        data[off : off + size] = jump.ljust(size, INT3)
        report.counts["trampolines"] += 1
    return _with_section(replace(original, data=bytes(data)), moved)


def _move(code: bytes, window: Window, moved: _Moved) -> None:
    """Append the instructions of a window, and the jump back."""
    decoded = decode_second(code, window.start_va)
    leaves = Leaves.NEXT
    for index in range(len(decoded)):
        at = int(decoded.starts[index]) - window.start_va
        one = code[at : at + int(decoded.lens[index])]
        leaves, width = Leaves(int(decoded.leaves[index])), int(decoded.widths[index])
        if width in (1, 4) and leaves is not Leaves.LOOP:
            disp = int.from_bytes(one[-width:], "little", signed=True)
            target = window.start_va + at + len(one) + disp
            opcode = near_opcode(one[: len(one) - width], leaves)
            one = opcode + _distance(target, moved.end_va + len(opcode) + 4)
        moved.add(one, window.start_va + at, int(decoded.lens[index]))
    if leaves not in (Leaves.STOP, Leaves.JUMP):
        moved.code += NEAR_JUMP + _distance(window.end_va, moved.end_va + JUMP_LEN)


def near_opcode(opcode: bytes, leaves: Leaves) -> bytes:
    """The opcode with 32 bits of displacement of a direct branch that has the given one."""
    if leaves is Leaves.CONDITION:
        return bytes((0x0F, 0x80 | opcode[-1] & 15))
    return NEAR_CALL if leaves is Leaves.CALL else NEAR_JUMP


def _distance(target_va: int, from_va: int) -> bytes:
    return struct.pack("<I", (target_va - from_va) & 0xFFFFFFFF)


def _with_section(image: ElfImage, moved: _Moved) -> ElfImage:
    """`image` with one more section of code and its relocations, the last by number."""
    loaded = max(s.off + s.file_len for s in image.loads)
    contents: list[Content] = []
    entries = np.zeros(0, RAW_REL)
    for section in image.sections:
        data = image.section_bytes(section)
        if section.kind is SectionKind.REL and image.sections[section.info].is_exec:
            left = np.frombuffer(data, RAW_REL).copy()
            gone = np.isin(left["offset"], list(moved.places))
            entries = np.append(entries, left[gone])
            left["info"][gone] = R_386_NONE
            data = left.tobytes()
        contents.append(Content(section, data))
    entries["offset"] = [moved.places[old_va] for old_va in entries["offset"].tolist()]
    code, home = bytes(moved.code), len(contents)
    flags = SectionFlag.ALLOC | SectionFlag.EXEC
    section = Section(
        home, TRAMPOLINES, SectionKind.PROGBITS, flags, moved.va, loaded, len(code), 0, 0, 1, 0
    )
    contents.append(Content(section, code))
    if len(entries):
        symbols = next(s.index for s in image.sections if s.kind is SectionKind.SYMTAB)
        section = Section(
            home + 1, f".rel{TRAMPOLINES}", SectionKind.REL, SectionFlag.NONE, 0, 0, 0,
            symbols, home, 4, RAW_REL.itemsize,
        )  # fmt: skip
        contents.append(Content(section, entries.tobytes()))
    memory = image.data[:loaded] + code
    return ElfImage.parse(write_elf(image, memory, contents, image.segments), image.name)
