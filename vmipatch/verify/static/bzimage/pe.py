# SPDX-License-Identifier: MIT
"""What do the headers for EFI firmware say of a bzImage, and what must they say once it is longer?

Source: PE Format (Microsoft): COFF header, optional header of PE32, section table, checksum;
arch/x86/boot/header.S of Linux.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from vmipatch.verify.static.bzimage.boot_code import UnknownBootCode

_PE_OFF_AT = 0x3C
_COFF_LEN, _SECTION_LEN = 24, 40
_SECTIONS_AT, _OPTIONAL_LEN_AT = 6, 20
_PE32 = 0x10B
_CODE_LEN, _ENTRY, _ALIGNMENTS, _IMAGE_LEN, _CHECKSUM = 4, 16, 32, 56, 64
_DIRECTORIES, _CERTIFICATES = 92, 128
_IMAGE_ALIGN = 0x1000
_EXTENT = struct.Struct("<4I")
_MOST_ALIGN = 0x10000


@dataclass(frozen=True, slots=True)
class PeHeaders:
    """Offsets of what matters."""

    optional: int
    sections: int
    """The section table."""
    count: int

    @classmethod
    def of(cls, data: bytes) -> PeHeaders | None:
        """The headers in `data`; None if it has no EFI stub.

        Raises Unknown if they are not PE32.
        """
        at = int.from_bytes(data[_PE_OFF_AT : _PE_OFF_AT + 4], "little")
        if data[:2] != b"MZ" or data[at : at + 4] != b"PE\0\0":
            return None
        optional = at + _COFF_LEN
        count = int.from_bytes(data[at + _SECTIONS_AT :][:2], "little")
        sections = optional + int.from_bytes(data[at + _OPTIONAL_LEN_AT :][:2], "little")
        is_pe32 = data[optional : optional + 2] == _PE32.to_bytes(2, "little")
        if not is_pe32 or sections + count * _SECTION_LEN > len(data):
            raise UnknownBootCode("the headers for EFI are not those of a PE32 file", 0)
        return cls(optional, sections, count)

    @property
    def checksum(self) -> slice:
        """Where the checksum is."""
        return slice(self.optional + _CHECKSUM, self.optional + _CHECKSUM + 4)

    @property
    def certificates(self) -> slice:
        """Where offset and length of the signatures are."""
        return slice(self.optional + _CERTIFICATES, self.optional + _CERTIFICATES + 8)

    def has_certificates(self, data: bytes) -> bool:
        """Whether the headers have such an entry."""
        return int.from_bytes(data[self.optional + _DIRECTORIES :][:4], "little") > 4

    def signatures(self, data: bytes) -> tuple[int, int]:
        """Offset and length of the signatures, (0, 0) if there are none."""
        if not self.has_certificates(data):
            return 0, 0
        off, length = struct.unpack("<II", data[self.certificates])
        return off, length

    def align(self, data: bytes) -> int:
        """The alignment of sections, in memory and in the file."""
        found = (_get(data, self.optional + _ALIGNMENTS + at) for at in (0, 4))
        return min(max(1, *found), _MOST_ALIGN)


def checksum(data: bytes, headers: PeHeaders) -> int:
    """The checksum of the whole file: its words with their carries, and its length."""
    octets = bytearray(data)
    octets[headers.checksum] = bytes(4)
    words = np.frombuffer(bytes(octets) + bytes(-len(octets) % 2), "<u2")
    total = int(words.sum(dtype=np.uint64))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total + len(data)


@dataclass(frozen=True, slots=True)
class Longer:
    """How a bzImage grows."""

    payload: int
    """Offset of the payload in the file, and in memory."""
    tail: int
    """Offset of the tail where it was."""
    distance: int
    """By how much it moves."""
    memory: int
    """By how much more memory the header asks for."""


def grown(setup: bytes, headers: PeHeaders, longer: Longer) -> bytes:
    """The headers in `setup` for the longer file: without signatures and checksum."""
    result = bytearray(setup)
    result[headers.checksum] = bytes(4)
    if headers.has_certificates(setup):
        result[headers.certificates] = bytes(8)
    distance = longer.distance
    image_len = _get(setup, headers.optional + _IMAGE_LEN)
    ends = [0]
    for index in range(headers.count):
        at = headers.sections + index * _SECTION_LEN + 8
        size, va, file_len, file_off = _EXTENT.unpack_from(setup, at)
        is_bss = not file_len and va + size >= image_len
        if file_off <= longer.payload < file_off + file_len:
            size, file_len = size + distance, file_len + distance
        elif va >= longer.tail:
            va += distance
            file_off += distance if file_len else 0
            size += max(longer.memory - distance, 0) if is_bss else 0
        ends.append(va + size)
        _EXTENT.pack_into(result, at, size, va, file_len, file_off)
    entry = _get(setup, headers.optional + _ENTRY)
    _put(result, headers.optional + _ENTRY, entry + distance * (entry >= longer.tail))
    code_at = headers.optional + _CODE_LEN
    _put(result, code_at, _get(setup, code_at) + distance)
    _put(result, headers.optional + _IMAGE_LEN, -(-max(ends) // _IMAGE_ALIGN) * _IMAGE_ALIGN)
    return bytes(result)


def _get(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _put(data: bytearray, at: int, value: int) -> None:
    data[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
