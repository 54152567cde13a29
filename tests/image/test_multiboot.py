# SPDX-License-Identifier: MIT
"""Are multiboot headers of both versions read as they are specified, and nothing else as one?"""

from __future__ import annotations

import struct

import pytest

from vmipatch.image.multiboot import MAGIC_1, MAGIC_2, multiboot_headers


def first(flags: int = 0, rest: bytes = b"") -> bytes:
    return struct.pack("<3I", MAGIC_1, flags, -(MAGIC_1 + flags) & 0xFFFFFFFF) + rest


def second(tags: bytes, *, architecture: int = 0) -> bytes:
    length = 16 + len(tags)
    checksum = -(MAGIC_2 + architecture + length) & 0xFFFFFFFF
    return struct.pack("<4I", MAGIC_2, architecture, length, checksum) + tags


END = struct.pack("<HHI", 0, 0, 8)


def test_header_of_version_1_is_as_long_as_its_flags_say() -> None:
    (plain,) = multiboot_headers(bytes(8) + first(3))
    assert (plain.version, plain.off, plain.length, plain.flags) == (1, 8, 12, 3)
    assert (plain.addresses, plain.entries) == (None, ())
    rest = struct.pack("<5I", 0x100000, 0x100000, 0, 0x140000, 0x100020)
    (placed,) = multiboot_headers(first(1 << 16, rest))
    assert placed.length == 32
    assert placed.entries == (0x100020,)
    assert placed.addresses is not None
    assert (placed.addresses.load_pa, placed.addresses.bss_end_pa) == (0x100000, 0x140000)
    (mode,) = multiboot_headers(first(4, bytes(36)))
    assert (mode.length, mode.entries) == (48, ()), "without bit 16 its addresses are not valid"


def test_tags_of_version_2_tell_addresses_and_entries() -> None:
    address = struct.pack("<HHI4I", 2, 0, 24, 0x100000, 0x100000, 0, 0)
    entry = struct.pack("<HHI I", 3, 0, 12, 0x100040) + bytes(4)
    efi = struct.pack("<HHI I", 8, 1, 12, 0x100080) + bytes(4)
    (header,) = multiboot_headers(bytes(16) + second(address + entry + efi + END))
    assert (header.version, header.off, header.length) == (2, 16, 16 + 24 + 16 + 16 + 8)
    assert header.entries == (0x100040, 0x100080)
    assert header.tags == (2, 3), "a loader may leave out the third"
    assert header.addresses is not None and header.addresses.header_pa == 0x100000


def test_file_may_have_both() -> None:
    found = multiboot_headers(first() + bytes(4) + second(END))
    assert [header.version for header in found] == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        first()[:-1] + b"\0",
        first(1 << 16, bytes(19)),
        bytes(2) + first(),
        bytes(8192 - 8) + first(),
        second(END)[:-4],
        second(END, architecture=4),
        bytes(4) + second(END),
        bytes(32768 - 16) + second(END),
        b"",
    ],
    ids=["sum", "cut off", "alignment", "too far", "tags", "mips", "alignment 2", "too far 2", ""],
)
def test_what_only_looks_like_one_is_not_one(data: bytes) -> None:
    found = multiboot_headers(data)
    assert not [header for header in found if header.off + header.length > len(data)]
    if data != second(END)[:-4]:
        assert found == ()


def test_magic_before_the_header_does_not_hide_it() -> None:
    (header,) = multiboot_headers(struct.pack("<I", MAGIC_1) + bytes(12) + first(1))
    assert header.off == 16
