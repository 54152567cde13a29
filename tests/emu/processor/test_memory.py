# SPDX-License-Identifier: MIT
"""Does guest-physical memory look like a PC's?"""

from __future__ import annotations

import pytest

from vmipatch.emu.processor.memory import (
    HIGH_PA,
    LOW_END_PA,
    MIN_RAM_LEN,
    Access,
    GuestMemory,
    MemoryRegion,
)

ROM_PA, SHARED_PA = 0xC8000, 0xCC000


@pytest.fixture
def memory() -> GuestMemory:
    memory = GuestMemory(MIN_RAM_LEN)
    memory.plug(ROM_PA, b"\x55\xaa".ljust(0x2000, b"\0"), Access.READ_ONLY)
    memory.plug(SHARED_PA, bytes(0x1000), Access.READ_WRITE)
    return memory


def test_map_of_what_exists(memory: GuestMemory) -> None:
    assert list(memory.regions()) == [
        MemoryRegion(0, LOW_END_PA, Access.READ_WRITE),
        MemoryRegion(ROM_PA, 0x1000, Access.READ_ONLY),
        MemoryRegion(ROM_PA + 0x1000, 0x1000, Access.READ_ONLY),
        MemoryRegion(SHARED_PA, 0x1000, Access.READ_WRITE),
        MemoryRegion(HIGH_PA, MIN_RAM_LEN - HIGH_PA, Access.READ_WRITE),
    ]


def test_holes_are_the_rest(memory: GuestMemory) -> None:
    holes = list(memory.holes(1 << 32))
    both = sorted([*holes, *((region.pa, region.length) for region in memory.regions())])
    at = 0
    for pa, length in both:
        assert pa == at
        at += length
    assert at == 1 << 32


@pytest.mark.parametrize(
    "pa", [LOW_END_PA, SHARED_PA + 0x1000, HIGH_PA - 4, MIN_RAM_LEN, 0xFEE00000]
)
def test_nothing_reads_as_ones_and_cannot_be_written(memory: GuestMemory, pa: int) -> None:
    memory.write_u32(pa, 0x12345678)
    assert memory.read_u32(pa) == 0xFFFFFFFF
    assert memory.read(pa, 3) == b"\xff" * 3


def test_guest_cannot_write_a_rom_but_the_host_can(memory: GuestMemory) -> None:
    memory.write_u32(ROM_PA, 0)
    memory.write_u8(ROM_PA + 1, 0)
    assert memory.read_u16(ROM_PA) == 0xAA55
    memory.load(ROM_PA, b"\x11\x22")
    assert memory.read_u16(ROM_PA) == 0x2211


@pytest.mark.parametrize("pa", [0x1000, 0x1001, 0x1FFE, SHARED_PA + 8])
def test_words_are_little_endian_wherever_they_lie(memory: GuestMemory, pa: int) -> None:
    memory.write_u32(pa, 0x11223344)
    assert memory.read_u32(pa) == 0x11223344
    assert memory.read(pa, 4) == b"\x44\x33\x22\x11"


def test_word_across_the_end_of_memory_is_half_there(memory: GuestMemory) -> None:
    memory.write_u32(MIN_RAM_LEN - 2, 0xAABBCCDD)
    assert memory.read_u32(MIN_RAM_LEN - 2) == 0xFFFFCCDD


@pytest.mark.parametrize(
    ("pa", "length"), [(ROM_PA + 1, 0x1000), (ROM_PA, 100), (0x9F000, 0x2000), (0xFF000, 0x2000)]
)
def test_only_pages_of_the_hole_can_be_plugged(memory: GuestMemory, pa: int, length: int) -> None:
    with pytest.raises(ValueError, match="not pages of the hole"):
        memory.plug(pa, bytes(length), Access.READ_ONLY)


@pytest.mark.parametrize("length", [0, 1 << 20, MIN_RAM_LEN + 1, 4 << 30])
def test_sizes_that_no_machine_has(length: int) -> None:
    with pytest.raises(ValueError, match="no memory for a machine"):
        GuestMemory(length)


def test_host_cannot_load_outside(memory: GuestMemory) -> None:
    with pytest.raises(ValueError, match="not in memory"):
        memory.load(MIN_RAM_LEN - 1, b"ab")


def test_digest_tells_one_bit(memory: GuestMemory) -> None:
    before = memory.digest()
    memory.write_u8(0x345678 % MIN_RAM_LEN, 1)
    assert memory.digest() != before
