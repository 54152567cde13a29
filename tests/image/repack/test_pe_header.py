# SPDX-License-Identifier: MIT
"""Do the headers for EFI firmware follow, for both ways in which Linux has written them?"""

from __future__ import annotations

import struct

import pytest

from vmipatch.errors import MalformedImage
from vmipatch.image.repack.pe_header import PeGrowth, certificates, grow, is_pe, without_signature

SETUP_LEN, PAYLOAD_OFF, TAIL_OFF = 0x4000, 0x4094, 0x104000
EDATA, END, INIT_SIZE = 0x10A000, 0x11C000, 0x900000
ENTRY = TAIL_OFF + 0x123
DISTANCE, INIT_GROWTH = 0x3000, 0x8000
GROWTH = PeGrowth(PAYLOAD_OFF, TAIL_OFF, DISTANCE, INIT_GROWTH)

Section = tuple[str, int, int, int, int]
"""Name, length in memory, address, length in the file, offset."""
SINCE_6_6: list[Section] = [
    (".setup", SETUP_LEN - 0x1000, 0x1000, SETUP_LEN - 0x1000, 0x1000),
    (".text", EDATA - 0x1000 - SETUP_LEN, SETUP_LEN, EDATA - 0x1000 - SETUP_LEN, SETUP_LEN),
    (".data", END - EDATA + 0x1000, EDATA - 0x1000, 0x200, EDATA - 0x1000),
]
BEFORE: list[Section] = [
    (".setup", SETUP_LEN - 0x220, 0x200, SETUP_LEN - 0x220, 0x200),
    (".reloc", 0x20, SETUP_LEN - 0x20, 0x20, SETUP_LEN - 0x20),
    (".text", EDATA - SETUP_LEN, SETUP_LEN, EDATA - SETUP_LEN, SETUP_LEN),
    (".bss", INIT_SIZE, EDATA, 0, 0),
]
LENGTHS = {"6.6": (SINCE_6_6, END), "before": (BEFORE, EDATA + INIT_SIZE)}


def headers(sections: list[Section], image_len: int, signed: tuple[int, int] = (0, 0)) -> bytearray:
    optional = struct.pack(
        "<HBB9I6H4I2H6I", 0x10B, 2, 20, EDATA - SETUP_LEN, 0, 0, ENTRY, SETUP_LEN, 0, 0,
        0x1000, 0x200, 0, 0, 1, 0, 0, 0, 0, image_len, 0x200, 0xABCD, 10, 0, 0, 0, 0, 0, 0, 6,
    )  # fmt: skip
    optional += bytes(32) + struct.pack("<II", *signed) + bytes(8)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x14C, len(sections), 0, 0, 1, len(optional), 0x30E)
    table = b"".join(
        struct.pack("<8s4I12xI", name.encode(), *rest, 0x60000020) for name, *rest in sections
    )
    front = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    return bytearray((front + coff + optional + table).ljust(SETUP_LEN, b"\0"))


def read(setup: bytearray) -> tuple[int, int, list[Section]]:
    """Entry point, length of the image, sections."""
    count, optional_len = (struct.unpack_from("<H", setup, at)[0] for at in (0x46, 0x54))
    (entry,) = struct.unpack_from("<I", setup, 0x58 + 16)
    (image_len,) = struct.unpack_from("<I", setup, 0x58 + 56)
    sections: list[Section] = []
    for at in range(0x58 + optional_len, 0x58 + optional_len + 40 * count, 40):
        name, *rest = struct.unpack_from("<8s4I", setup, at)
        sections.append((name.rstrip(b"\0").decode(), *rest))
    return entry, image_len, sections


@pytest.mark.parametrize("which", LENGTHS)
def test_sections_cover_the_grown_file_and_memory(which: str) -> None:
    sections, image_len = LENGTHS[which]
    setup = headers(sections, image_len)
    grow(setup, GROWTH, "bzImage")
    entry, new_len, grown = read(setup)
    assert entry == ENTRY + DISTANCE
    by_name = {section[0]: section for section in grown}
    text = next(s for s in sections if s[0] == ".text")
    assert by_name[".text"][1:] == (
        text[1] + DISTANCE, text[2], text[3] + DISTANCE, text[4],
    )  # fmt: skip
    if which == "6.6":
        data = sections[-1]
        assert by_name[".data"][1:] == (data[1], data[2] + DISTANCE, data[3], data[4] + DISTANCE)
        assert new_len == image_len + DISTANCE
    else:
        assert by_name[".bss"][2:] == (EDATA + DISTANCE, 0, 0)
        assert new_len == image_len + INIT_GROWTH
    for section in sections[:-2]:
        assert by_name[section[0]] == section
    assert max(s[1] + s[2] for s in grown) == new_len


def test_signature_is_found_and_taken_out() -> None:
    setup = headers(SINCE_6_6, END, signed=(EDATA, 1472))
    assert certificates(setup) == (EDATA, 1472)
    without_signature(setup)
    assert certificates(setup) == (0, 0)
    assert struct.unpack_from("<I", setup, 0x58 + 64) == (0,)


def test_file_without_efi_stub_is_left_alone() -> None:
    setup = bytearray(b"\xff" * SETUP_LEN)
    without_signature(setup)
    assert not is_pe(setup)
    assert setup == b"\xff" * SETUP_LEN


def test_headers_of_64_bits_are_refused() -> None:
    setup = headers(SINCE_6_6, END)
    struct.pack_into("<H", setup, 0x58, 0x20B)
    with pytest.raises(MalformedImage):
        grow(setup, GROWTH, "bzImage")
