# SPDX-License-Identifier: MIT
"""Does what Linux's boot code moves about in a payload arrive whole?"""

from __future__ import annotations

import struct

import pytest

from tests.image.repack.forms import LINK_PA
from tests.image.repack.linked import TEXT_VA, small_kernel
from tests.support.elfbuilder import DATA, TEXT, ElfBuilder
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.repack.payload_image import payload_image, stripped

RELOCS = tuple(range(TEXT_VA, TEXT_VA + 4000, 4))


def boot(payload: bytes) -> tuple[bytearray, tuple[int, ...]]:
    """Do as parse_elf and handle_relocations of Linux's misc.c with an unpacked payload."""
    memory = bytearray(payload) + bytes(1 << 21)
    for load in list(ElfImage.parse(payload).loads):
        target = load.pa - LINK_PA
        memory[target : target + load.file_len] = memory[load.off : load.off + load.file_len]
    listed, at = [], len(payload) - 4
    while word := struct.unpack_from("<I", memory, at)[0]:
        listed.append(word)
        at -= 4
    return memory, tuple(reversed(listed))


@pytest.mark.parametrize("bss_len", [0, 0x1000, 0x3000, 0x10000, 0x100000])
@pytest.mark.parametrize("added_len", [0, 100, 5000, 60_000])
def test_segments_and_list_arrive_whole(bss_len: int, added_len: int) -> None:
    """A short .bss makes the last segment land where the list would stand."""
    image = ElfImage.parse(small_kernel(added_len, bss_len))
    memory, listed = boot(payload_image(stripped(image), RELOCS, LINK_PA, "small"))
    assert listed == RELOCS
    for load in image.loads:
        target = load.pa - LINK_PA
        expected = image.data[load.off : load.off + load.file_len]
        assert memory[target : target + load.file_len] == expected


def test_segment_that_would_be_overwritten_is_refused() -> None:
    builder = ElfBuilder()
    builder.section(".text", TEXT_VA + 0x2000, bytes(0x3000), TEXT)
    builder.section(".data", TEXT_VA + 0x8000, b"data" * 0x400, DATA)
    with pytest.raises(InputNotUnderstood, match="overwrite"):
        payload_image(builder.build(), None, LINK_PA, "small")


def test_kernel_without_relocations_gets_no_list() -> None:
    elf = stripped(ElfImage.parse(small_kernel()))
    assert payload_image(elf, None, LINK_PA, "small") == elf


def test_section_that_is_not_packed_leaves_zeros_and_no_header() -> None:
    image = ElfImage.parse(small_kernel())
    section = image.section_by_name[".rodata"]
    packed = ElfImage.parse(stripped(image, {".rodata"}))
    assert ".rodata" not in packed.section_by_name
    load = next(s for s in packed.loads if s.va == section.va)
    assert packed.data[load.off : load.off + load.file_len] == bytes(section.size)
