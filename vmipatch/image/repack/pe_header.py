# SPDX-License-Identifier: MIT
"""What does a bzImage tell EFI firmware? PE/COFF headers that follow the boot code's new length.

Source: PE Format (Microsoft), arch/x86/boot/header.S and tools/build.c of Linux.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vmipatch.errors import MalformedImage

_PE_OFF_AT = 0x3C
_COFF = struct.Struct("<4sHHIIIHH")
_SECTION = struct.Struct("<8sIIIIIIHHI")
_CODE_LEN, _ENTRY, _ALIGNMENTS, _IMAGE_LEN, _CHECKSUM = 4, 16, 32, 56, 64
_DIRECTORIES, _CERTIFICATES = 92, 128
"""Offsets in the optional header of PE32; the certificates are directory entry 4."""
_PE32 = 0x10B
_PAGE = 0x1000
_MOST_ALIGN = 0x10000


@dataclass(frozen=True, slots=True)
class PeGrowth:
    """How the file and its memory grow."""

    payload_off: int
    """File offset of the payload."""
    tail_off: int
    """File offset of the tail, before it moves."""
    distance: int
    """By how much the tail moves."""
    init_growth: int
    """By how much init_size grows."""


def is_pe(data: bytes | bytearray) -> bool:
    """Whether the bzImage has an EFI stub."""
    return data[:2] == b"MZ" and data[_pe_off(data) :][:4] == b"PE\0\0"


def alignment(data: bytes, name: str) -> int:
    """Alignment of sections, in memory and in the file; 1 without an EFI stub.

    Raises MalformedImage if that is not a power of two, or more than a page of any processor.
    """
    at = _pe_off(data) + _COFF.size + _ALIGNMENTS
    if not is_pe(data):
        return 1
    found = (_u32(data, at), _u32(data, at + 4))
    if any(align & (align - 1) or align > _MOST_ALIGN for align in found):
        shown = " and ".join(map(hex, found))
        raise MalformedImage(f"sections cannot be aligned to {shown}", file=name, place=f"{at:#x}")
    return max(found)


def certificates(data: bytes | bytearray) -> tuple[int, int]:
    """File offset and length of the signatures; (0, 0) if there are none."""
    at = _pe_off(data) + _COFF.size
    if not is_pe(data) or int.from_bytes(data[at + _DIRECTORIES :][:4], "little") <= 4:
        return 0, 0
    off, length = struct.unpack_from("<II", data, at + _CERTIFICATES)
    return off, length


def without_signature(setup: bytearray) -> None:
    """Take checksum and certificates out of the headers: they hold for the old bytes only."""
    at = _pe_off(setup) + _COFF.size
    if is_pe(setup):
        struct.pack_into("<I", setup, at + _CHECKSUM, 0)
        if certificates(setup) != (0, 0):
            struct.pack_into("<II", setup, at + _CERTIFICATES, 0, 0)


def grow(setup: bytearray, growth: PeGrowth, name: str) -> None:
    """Let the headers in `setup` follow.

    Raises MalformedImage if they are not those of an i386 bzImage.
    """
    coff_off = _pe_off(setup)
    _, _, count, _, _, _, optional_len, _ = _COFF.unpack_from(setup, coff_off)
    at = coff_off + _COFF.size
    table_off = at + optional_len
    (magic,) = struct.unpack_from("<H", setup, at)
    if magic != _PE32 or table_off + count * _SECTION.size > len(setup):
        raise MalformedImage(
            "these are not the headers of a PE32 file", file=name, place=f"{at:#x}"
        )
    image_len = _u32(setup, at + _IMAGE_LEN)
    end = 0
    for off in range(table_off, table_off + count * _SECTION.size, _SECTION.size):
        end = max(end, _grow_section(setup, off, growth, image_len))
    _move(setup, at + _ENTRY, growth)
    code_len = _u32(setup, at + _CODE_LEN)
    struct.pack_into("<I", setup, at + _CODE_LEN, code_len + growth.distance)
    struct.pack_into("<I", setup, at + _IMAGE_LEN, -(-end // _PAGE) * _PAGE)


def _grow_section(setup: bytearray, off: int, growth: PeGrowth, image_len: int) -> int:
    """Let one section follow; its new end in memory."""
    name, mem_len, va, file_len, file_off, *rest = _SECTION.unpack_from(setup, off)
    holds_payload = file_off <= growth.payload_off < file_off + file_len
    if holds_payload:
        mem_len += growth.distance
        file_len += growth.distance
    elif va >= growth.tail_off:
        was_end = va + mem_len
        va += growth.distance
        file_off += growth.distance if file_len else 0
        if not file_len and was_end >= image_len:
            # .bss of Linux before 6.6: it reaches as far as the kernel needs memory.
            mem_len += max(growth.init_growth - growth.distance, 0)
    _SECTION.pack_into(setup, off, name, mem_len, va, file_len, file_off, *rest)
    return int(va + mem_len)


def _move(setup: bytearray, at: int, growth: PeGrowth) -> None:
    value = _u32(setup, at)
    if value >= growth.tail_off:
        struct.pack_into("<I", setup, at, value + growth.distance)


def _pe_off(data: bytes | bytearray) -> int:
    return int.from_bytes(data[_PE_OFF_AT : _PE_OFF_AT + 4], "little")


def _u32(data: bytes | bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")
