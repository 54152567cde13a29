# SPDX-License-Identifier: MIT
"""What does a kernel tell a boot loader of the Multiboot Specification?

Sources: Multiboot Specification version 0.6.96, chapter 3.1; Multiboot2 Specification version 2.0,
chapter 3.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAGIC_1: Final = 0x1BADB002
MAGIC_2: Final = 0xE85250D6
_SEARCHED = {MAGIC_1: (8192, 4), MAGIC_2: (32768, 8)}
"""In how many bytes of the file a header lies, as a whole, and its alignment there."""
ADDRESSES_ARE_VALID: Final = 1 << 16
MODE_IS_WANTED: Final = 1 << 2
"""Bits of the flags of version 1: its address fields count; those of a video mode are there."""
_HEADER_1, _ADDRESSES, _HEADER_2 = struct.Struct("<3I"), struct.Struct("<5I"), struct.Struct("<4I")
_MODE_LEN, _TAG = 16, struct.Struct("<HHI")
_I386 = 0
_END, _ADDRESS, _ENTRY, _EFI_ENTRY = 0, 2, 3, 8
"""Tags of version 2: the end, where to load a flat file, entries by a BIOS's loader and EFI's."""


@dataclass(frozen=True, slots=True)
class LoadAddresses:
    """How a file that is not ELF, or not loaded as ELF, gets into memory. All are physical."""

    header_pa: int
    load_pa: int
    """0xFFFFFFFF in version 2: the whole file is loaded."""
    load_end_pa: int
    """0: to the end of the file."""
    bss_end_pa: int


@dataclass(frozen=True, slots=True)
class MultibootHeader:
    """One header of a file."""

    version: int
    off: int
    """In the file."""
    length: int
    flags: int
    """Of version 1; 0 in version 2."""
    addresses: LoadAddresses | None
    entries: tuple[int, ...]
    """Physical addresses at which loaders enter, where the ELF header does not say it."""
    tags: tuple[int, ...] = ()
    """Types of the tags of version 2, in their order; those that a loader may ignore left out."""


def multiboot_headers(data: bytes) -> tuple[MultibootHeader, ...]:
    """The headers in a file, version 1 before version 2; each is the first that is whole."""
    found = [_first(data, MAGIC_1), _first(data, MAGIC_2)]
    return tuple(header for header in found if header is not None)


def _first(data: bytes, magic: int) -> MultibootHeader | None:
    searched, align = _SEARCHED[magic]
    front = data[:searched]
    at = front.find(struct.pack("<I", magic))
    while at >= 0:
        read = _read_1 if magic == MAGIC_1 else _read_2
        if at % align == 0 and (header := read(front, at)) is not None:
            return header
        at = front.find(struct.pack("<I", magic), at + 1)
    return None


def _read_1(data: bytes, off: int) -> MultibootHeader | None:
    """The header of version 1 at `off`; None if its sum is wrong or it is cut off."""
    if off + _HEADER_1.size > len(data):
        return None
    magic, flags, checksum = _HEADER_1.unpack_from(data, off)
    length = _HEADER_1.size
    if flags & (ADDRESSES_ARE_VALID | MODE_IS_WANTED):
        length += _ADDRESSES.size
    if flags & MODE_IS_WANTED:
        length += _MODE_LEN
    if (magic + flags + checksum) & 0xFFFFFFFF or off + length > len(data):
        return None
    if not flags & ADDRESSES_ARE_VALID:
        return MultibootHeader(1, off, length, flags, None, ())
    *addresses, entry_pa = _ADDRESSES.unpack_from(data, off + _HEADER_1.size)
    return MultibootHeader(1, off, length, flags, LoadAddresses(*addresses), (entry_pa,))


def _read_2(data: bytes, off: int) -> MultibootHeader | None:
    """The header of version 2 at `off`; None if it is not for i386, broken or cut off."""
    if off + _HEADER_2.size > len(data):
        return None
    magic, architecture, length, checksum = _HEADER_2.unpack_from(data, off)
    good = not (magic + architecture + length + checksum) & 0xFFFFFFFF
    if not good or architecture != _I386 or length < _HEADER_2.size or off + length > len(data):
        return None
    addresses, entries, tags = None, [], []
    for kind, is_optional, body in _tags(data[off + _HEADER_2.size : off + length]):
        if kind == _ADDRESS and len(body) >= 16:
            addresses = LoadAddresses(*struct.unpack_from("<4I", body))
        if kind in (_ENTRY, _EFI_ENTRY) and len(body) >= 4:
            entries.append(int.from_bytes(body[:4], "little"))
        if not is_optional:
            tags.append(kind)
    return MultibootHeader(2, off, length, 0, addresses, tuple(entries), tuple(tags))


def _tags(data: bytes) -> Iterator[tuple[int, bool, bytes]]:
    """Type, whether it may be ignored, and the rest of each tag before the end tag."""
    at = 0
    while at + _TAG.size <= len(data):
        kind, flags, size = _TAG.unpack_from(data, at)
        if kind == _END or size < _TAG.size or at + size > len(data):
            return
        yield kind, bool(flags & 1), data[at + _TAG.size : at + size]
        at += -(-size // 8) * 8
