# SPDX-License-Identifier: MIT
"""What is in a kernel file that is not ELF: a flat binary, or one with a header of a.out?

Sources: include/uapi/linux/a.out.h of Linux (struct exec, struct nlist, N_TXTOFF), and for flat
files nothing: where they are linked is told from outside.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from vmipatch.errors import InputNotUnderstood, MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_NOTYPE, SYMBOL
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment, SegmentKind

_EXEC = struct.Struct("<8I")
OMAGIC, NMAGIC, ZMAGIC, QMAGIC = 0o407, 0o410, 0o413, 0o314
_MACHINES = (0, 100)
"""Bits 16 to 23 of the first word: not said, and M_386."""
_TEXT_OFF: Final = {OMAGIC: _EXEC.size, NMAGIC: _EXEC.size, ZMAGIC: 1024, QMAGIC: 0}
_NLIST = np.dtype([("name", "<u4"), ("type", "u1"), ("other", "u1"), ("desc", "<u2"),
                   ("value", "<u4")])  # fmt: skip
_TYPE, _TEXT, _EXTERNAL, _STAB = 0x1E, 4, 1, 0xE0
_RWX = 7
_GLOBAL = 1 << 4


@dataclass(frozen=True, slots=True)
class _Aout:
    """The header of an a.out file, and where its parts are."""

    text_off: int
    text_len: int
    data_len: int
    syms_len: int
    entry_va: int
    relocations_len: int

    @property
    def symbols_off(self) -> int:
        return self.text_off + self.text_len + self.data_len + self.relocations_len


def flat_image(data: bytes, base_va: int, name: str) -> ElfImage:
    """A file whose code is linked at `base_va`, as an image with one section of code.

    Of an a.out file that is the address of its text; it is entered where its header says and has
    its symbols of code. A flat binary is entered at its first byte. Raises InputNotUnderstood if
    the code reaches beyond 4 GiB, MalformedImage if the file is empty or ends before its parts do.
    """
    if not data:
        raise MalformedImage("the file is empty", file=name, place="offset 0x0")
    head = _aout(data, name)
    off, length = (0, len(data)) if head is None else (head.text_off, head.text_len)
    if base_va + length > 1 << 32:
        raise InputNotUnderstood(
            f"{length} bytes at {base_va:#x} reach beyond 4 GiB",
            file=name,
            place=f"--base {base_va:#x}",
            hint="give the linked address of its first byte of code",
        )
    code = SectionFlag.ALLOC | SectionFlag.EXEC
    null = Section(0, "", SectionKind.NULL, SectionFlag.NONE, 0, 0, 0, 0, 0, 0, 0)
    text = Section(1, ".text", SectionKind.PROGBITS, code, base_va, off, length, 0, 0, 1, 0)
    sections = [null, text]
    if head is not None and head.syms_len:
        data, tables = _with_symbols(data, head, text, name)
        sections += tables
    segment = Segment(SegmentKind.LOAD, off, base_va, base_va, length, length, _RWX, 1)
    entry_va = base_va if head is None else head.entry_va
    names = {section.name: section for section in sections}
    return ElfImage(name, data, tuple(sections), (segment,), entry_va, names)


def _aout(data: bytes, name: str) -> _Aout | None:
    """The header, None of a flat file. Raises MalformedImage if the file is cut off."""
    if len(data) < _EXEC.size:
        return None
    info, text, data_len, _, syms, entry_va, of_text, of_data = _EXEC.unpack_from(data)
    magic = info & 0xFFFF
    if magic not in _TEXT_OFF or info >> 16 & 0xFF not in _MACHINES:
        return None
    head = _Aout(_TEXT_OFF[magic], text, data_len, syms, entry_va, of_text + of_data)
    if head.symbols_off + syms > len(data):
        raise MalformedImage(
            f"an a.out file with these parts has {head.symbols_off + syms} bytes, this {len(data)}",
            file=name,
            place="offset 0x0",
        )
    return head if text else None


def _with_symbols(
    data: bytes, head: _Aout, text: Section, name: str
) -> tuple[bytes, list[Section]]:
    """The file with an ELF symbol table after it, and the sections of that.

    Raises MalformedImage if the table of names is cut off.
    """
    count, rest = divmod(head.syms_len, _NLIST.itemsize)
    strings_off = head.symbols_off + head.syms_len
    strings_len = int.from_bytes(data[strings_off : strings_off + 4], "little")
    if rest or strings_off + strings_len > len(data) or strings_len < 4:
        raise MalformedImage(
            "its symbols or their names are cut off", file=name, place=f"offset {strings_off:#x}"
        )
    raw = np.frombuffer(data, _NLIST, count, head.symbols_off)
    inside = (raw["value"] >= text.va) & (raw["value"] < text.end_va)
    wanted = raw[(raw["type"] & _TYPE == _TEXT) & (raw["type"] & _STAB == 0) & inside]
    wanted = wanted[wanted["name"] < strings_len]
    # Offsets of names count from the word that holds the length of the table.
    strings = b"\0\0\0\0" + data[strings_off + 4 : strings_off + strings_len] + b"\0"
    table = np.zeros(len(wanted) + 1, SYMBOL)
    table["name"][1:], table["value"][1:] = wanted["name"], wanted["value"]
    table["info"][1:] = STT_NOTYPE | np.where(wanted["type"] & _EXTERNAL, _GLOBAL, 0)
    table["shndx"][1:] = text.index
    raw_table = table.tobytes()
    none = SectionFlag.NONE
    symbols = Section(
        2, ".symtab", SectionKind.SYMTAB, none, 0, len(data), len(raw_table), 3, 0, 4,
        SYMBOL.itemsize,
    )  # fmt: skip
    names_off = len(data) + len(raw_table)
    names = Section(3, ".strtab", SectionKind.STRTAB, none, 0, names_off, len(strings), 0, 0, 1, 0)
    return data + raw_table + strings, [symbols, names]
