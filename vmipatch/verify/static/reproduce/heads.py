# SPDX-License-Identifier: MIT
"""The header tables of an ELF file as they are stored, every bit of them."""

from __future__ import annotations

import struct

import numpy as np

from vmipatch.image.elf import ELF_HEADER_LEN, PHOFF_AT, SHOFF_AT, ElfImage

SECTION_HEAD = np.dtype(
    [
        (name, "<u4")
        for name in
        ("name", "kind", "flags", "va", "off", "size", "link", "info", "align", "entry_len")
    ]
)  # fmt: skip
"""Elf32_Shdr (System V ABI, chapter 4)."""
SEGMENT_HEAD = np.dtype(
    [(name, "<u4") for name in ("kind", "off", "va", "pa", "file_len", "mem_len", "flags", "align")]
)
"""Elf32_Phdr (System V ABI, chapter 5)."""
FILE_HEAD = struct.Struct("<16s2H5I6H")
"""Elf32_Ehdr."""
ENTRY, SHOFF, PHNUM, SHNUM = 4, 6, 10, 12
"""Fields of it that differ between the files."""
PROGBITS, STRTAB, NOBITS, REL = 1, 3, 8, 9
LOAD = 1
ALLOC, EXEC = 2, 4
READ = 4
"""p_flags of a segment that is only read."""


def section_heads(image: ElfImage) -> np.ndarray:
    """The section headers of `image`, a copy."""
    (off,) = struct.unpack_from("<I", image.data, SHOFF_AT)
    return np.frombuffer(image.data, SECTION_HEAD, len(image.sections), off).copy()


def segment_heads(image: ElfImage) -> np.ndarray:
    """The program headers of `image`, a copy."""
    return np.frombuffer(image.data, SEGMENT_HEAD, len(image.segments), segments_off(image)).copy()


def segments_off(image: ElfImage) -> int:
    """Where the program headers are in the file."""
    (off,) = struct.unpack_from("<I", image.data, PHOFF_AT)
    return int(off)


def file_head(image: ElfImage) -> list[int]:
    """The fields of the ELF header."""
    return list(FILE_HEAD.unpack_from(image.data[:ELF_HEADER_LEN]))
