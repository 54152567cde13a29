# SPDX-License-Identifier: MIT
"""What does the loader in the image have to know? One structure; C gets it from here."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass, fields

from vmipatch.vmi.calls import VmiCall


@dataclass(frozen=True, slots=True)
class Facts:
    """Words of `struct facts`, in this order. Addresses are linear, as the image is linked."""

    page_offset: int
    """Where physical address 0 is mapped. It stays, when everything else moves."""
    image_len: int
    """Bytes from there on that the image spans: as much as domain 0 has."""
    moves_len: int
    """How many words move with the image."""
    initrd_len: int
    command_line_len: int
    """Bytes of the kernel's command line, its NUL too."""
    rom_head_len: int
    entry: int
    """Where the kernel goes on, paging being on."""
    stack: int
    """The word that holds its stack."""
    page_directory: int
    """The kernel's own level-3 table."""
    page_middle: int
    """Its level-2 tables, for its part of the address space."""
    boot_params: int
    command_line: int
    max_pfn_mapped: int
    """A word of the kernel; 0 if it has none."""
    fixaddr_top: int
    """A word of the kernel: where its fixed mappings end."""
    initrd: int
    moves: int
    """The list of the words that move."""
    append: int
    """The front of the command line, with a NUL."""
    rom_start: int
    rom_end: int

    def pack(self) -> bytes:
        """Little-endian words."""
        return struct.pack(f"<{len(fields(self))}I", *astuple(self))

    def moving(self) -> tuple[int, ...]:
        """Offsets of those words that are addresses and move."""
        numbers = sum(name.endswith(("_len", "_offset")) for name in FACT_NAMES)
        words = list(enumerate(astuple(self)))[numbers:]
        return tuple(4 * index for index, value in words if value)


FACT_NAMES = tuple(each.name for each in fields(Facts))


def numbers_header() -> str:
    """The C header that the ROM's sources include: the structure, and the numbers of the calls."""
    members = "\n".join(f"    u32 {name};" for name in FACT_NAMES)
    calls = "\n".join(f"#define CALL_{call.name} {int(call)}" for call in VmiCall)
    return f"{calls}\n#ifndef __ASSEMBLER__\nstruct facts {{\n{members}\n}};\n#endif\n"
