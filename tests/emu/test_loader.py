# SPDX-License-Identifier: MIT
"""Does a kernel find what the boot protocol promises it?"""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from tests.support.elfbuilder import DATA, TEXT, ElfBuilder
from vmipatch.emu.loader import (
    COMMAND_LINE_PA,
    GDT_PA,
    MAX_COMMAND_LINE_LEN,
    ZERO_PAGE_PA,
    Boot,
    load,
)
from vmipatch.emu.memory_map import E820Entry, E820Kind, memory_map
from vmipatch.emu.processor.memory import GuestMemory
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.setup_header import SetupHeader

RAM_LEN = 64 << 20
BEYOND_END_PA = 0x1800000


def kernel() -> ElfImage:
    """Linked at 3 GiB, with a segment far beyond the others."""
    builder = ElfBuilder(entry=0x1000000)
    builder.section(".text", 0xC1000000, b"\x90\xf4", TEXT, align=4096)
    builder.section(".extra", 0xC0000000 + BEYOND_END_PA, b"extra", DATA, align=4096)
    return builder.image()


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(RAM_LEN)


def header_of(memory: GuestMemory) -> SetupHeader:
    return SetupHeader.parse(memory.read(ZERO_PAGE_PA, 0x1000))


def test_segments_lie_at_their_physical_addresses(memory: GuestMemory) -> None:
    load(memory, Boot(kernel()))
    assert memory.read(0x1000000, 2) == b"\x90\xf4"
    assert memory.read(BEYOND_END_PA, 5) == b"extra"


def test_zero_page_names_what_was_loaded(memory: GuestMemory) -> None:
    load(memory, Boot(kernel(), "console=ttyS0", b"initrd"))
    header = header_of(memory)
    assert header.cmd_line_ptr == COMMAND_LINE_PA
    assert memory.read(COMMAND_LINE_PA, 14) == b"console=ttyS0\0"
    assert header.ramdisk_size == 6
    assert memory.read(header.ramdisk_image, 6) == b"initrd"
    assert header.ramdisk_image % 4096 == 0
    assert header.type_of_loader != 0


def test_without_initrd_the_zero_page_says_so(memory: GuestMemory) -> None:
    load(memory, Boot(kernel()))
    assert (header_of(memory).ramdisk_image, header_of(memory).ramdisk_size) == (0, 0)


def test_memory_map_is_in_the_zero_page(memory: GuestMemory) -> None:
    load(memory, Boot(kernel()))
    page = memory.read(ZERO_PAGE_PA, 0x1000)
    entries = [
        E820Entry(pa, length, E820Kind(kind))
        for pa, length, kind in struct.iter_unpack("<QQI", page[0x2D0 : 0x2D0 + 20 * page[0x1E8]])
    ]
    assert tuple(entries) == memory_map(RAM_LEN)
    assert sum(e.length for e in entries if e.kind is E820Kind.RAM) > RAM_LEN - (1 << 20)
    assert all(a.pa + a.length <= b.pa for a, b in pairwise(entries))


@pytest.mark.parametrize(("ram_mib", "short_k"), [(48, 47 << 10), (256, 0xFC00)])
def test_kernels_that_know_no_memory_map_are_told_how_much_there_is(
    ram_mib: int, short_k: int
) -> None:
    """Boot code up to Linux 2.6.19 stops where both sizes are zero."""
    memory = GuestMemory(ram_mib << 20)
    load(memory, Boot(kernel()))
    page = memory.read(ZERO_PAGE_PA, 0x1000)
    assert struct.unpack_from("<H", page, 0x002) == (short_k,)
    assert struct.unpack_from("<I", page, 0x1E0) == ((ram_mib - 1) << 10,)


def test_boot_segments_are_where_the_protocol_wants_them(memory: GuestMemory) -> None:
    load(memory, Boot(kernel()))
    code, data = struct.unpack("<2Q", memory.read(GDT_PA + 0x10, 16))
    assert code == 0x00CF9B000000FFFF
    assert data == 0x00CF93000000FFFF


def test_kernel_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputNotUnderstood, match="does not fit"):
        load(GuestMemory(16 << 20), Boot(kernel()))


def test_initrd_that_does_not_fit_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(InputNotUnderstood, match="too many for the memory"):
        load(memory, Boot(kernel(), initrd=bytes(48 << 20)))


def test_command_line_has_an_end(memory: GuestMemory) -> None:
    with pytest.raises(InputNotUnderstood, match="command line"):
        load(memory, Boot(kernel(), "x" * (MAX_COMMAND_LINE_LEN + 1)))


def test_file_without_segments_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(InputNotUnderstood, match="nothing to load"):
        load(memory, Boot(ElfBuilder().image("empty")))
