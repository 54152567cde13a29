# SPDX-License-Identifier: MIT
"""Does the ROM keep Xen's rules whatever a kernel stores? Its compiled code on a model of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.xen.rom_model import (
    FIRST_FREE,
    MEMORY_VA,
    PAGE_OFFSET,
    PAGES,
    PRESENT,
    SHIFT,
    WRITE,
    RomModel,
)

ORDINARY, LEVEL_1, LEVEL_2, LEVEL_3 = range(4)
"""enum page_type of rom.h."""
USER = 0x67
BOOT_TABLES = FIRST_FREE + 8
"""Level 3, and the level-2 table of the kernel's part: what Xen has built."""
OWN = range(FIRST_FREE + 16, PAGES)


def va(page: int) -> int:
    return MEMORY_VA + (page << 12)


def frame(page: int) -> int:
    return (SHIFT >> 12) + page


def entry(page: int, flags: int = USER) -> int:
    return frame(page) << 12 | flags


def booted() -> RomModel:
    """The ROM after it has taken over the tables that Xen made."""
    rom = RomModel()
    tables = range(BOOT_TABLES, BOOT_TABLES + 5)
    for slot, page in enumerate(tables[1:]):
        rom.write(va(tables[0]) + 8 * slot, entry(page, PRESENT))
        rom.read_only.add(frame(page))
        rom.pinned.add(frame(page))
    rom.read_only.add(frame(tables[0]))
    rom.call("adopt_boot_tables", va(tables[0]), len(tables))
    rom.call("share_kernel_tables")
    return rom


@dataclass
class Kernel:
    """A kernel that makes and frees address spaces as Linux does, by plain stores."""

    rom: RomModel
    chance: random.Random
    free: list[int] = field(default_factory=lambda: list(OWN)[:400])
    tables: list[int] = field(default_factory=lambda: [BOOT_TABLES, BOOT_TABLES + 1])
    """Pages that are tables now; no page becomes one while it is mapped."""

    def take(self) -> int:
        page = self.free.pop(self.chance.randrange(len(self.free)))
        self.rom.uc.mem_write(va(page), bytes(4096))
        return page

    def new_space(self) -> tuple[int, list[int], dict[int, list[int]]]:
        """A page directory, its level-2 tables, and the level-1 tables of each."""
        directory = self.take()
        middles = [self.take() for _ in range(3)]
        tables: dict[int, list[int]] = {}
        for slot, middle in enumerate(middles):
            self.rom.write(va(directory) + 8 * slot, entry(middle, PRESENT))
            tables[middle] = [self.take() for _ in range(self.chance.randrange(3))]
            for index, table in enumerate(tables[middle]):
                self.rom.write(va(middle) + 8 * index, entry(table))
                for _ in range(4):
                    self.rom.write(va(table) + 8 * self.chance.randrange(512), self.any_entry())
        return directory, middles, tables

    def any_entry(self) -> int:
        """An entry of level 1: nothing, data, or a writable mapping of a table."""
        page = self.chance.choice([*OWN[400:420], *self.tables])
        return self.chance.choice(
            [0, entry(page), entry(page, PRESENT), entry(page, USER & ~WRITE)]
        )

    def end_space(self, space: tuple[int, list[int], dict[int, list[int]]]) -> None:
        """Level-1 tables go by their entries, level-2 tables by the next store into them."""
        directory, middles, tables = space
        for middle in middles:
            for index, table in enumerate(tables[middle]):
                self.rom.call("store_entry", va(middle) + 8 * index, 0, 0)
                self.free.append(table)
        self.rom.call("set_cr3", SHIFT + (FIRST_FREE << 12))
        for middle in middles:
            if self.rom.type_of(frame(middle)) == LEVEL_2:
                assert self.rom.call("forget_empty_table", va(middle)) == 1
        self.free += [directory, *middles]


def writable_mappings_of_tables(rom: RomModel) -> Iterator[str]:
    """Each breach of Xen's rules, looked for in every table that is one."""
    for page in range(PAGES):
        if rom.type_of(frame(page)) != LEVEL_1:
            continue
        for index in range(512):
            value = rom.entry(va(page) + 8 * index)
            target = value >> 12 & 0xFFFFFFFF
            if value & PRESENT and value & WRITE and rom.type_of(target) != ORDINARY:
                yield f"{page:#x}[{index}] = {value:#x}"


@pytest.mark.parametrize("seed", range(3))
def test_address_spaces_come_and_go_without_a_refusal(seed: int) -> None:
    rom = booted()
    kernel = Kernel(rom, random.Random(seed))
    for _ in range(4):
        space = kernel.new_space()
        rom.call("set_cr3", SHIFT + (space[0] << 12))
        tables = [table for some in space[2].values() for table in some]
        kernel.tables += [*space[1], *tables]
        for table in tables * 20:
            value = kernel.any_entry()
            at = va(table) + 8 * kernel.chance.randrange(512)
            rom.call("store_entry", at, value & 0xFFFFFFFF, value >> 32)
        assert rom.refused == []
        assert list(writable_mappings_of_tables(rom)) == []
        kernel.tables = kernel.tables[:2]
        kernel.end_space(space)
    tables = [page for page in OWN if rom.type_of(frame(page)) != ORDINARY]
    assert tables == [], "every table is memory again"
    assert {frame(page) for page in OWN} & rom.read_only == set()


def test_level_3_shows_user_space_as_the_directory_in_cr3_does() -> None:
    rom = booted()
    kernel = Kernel(rom, random.Random(1))
    first, second = kernel.new_space(), kernel.new_space()
    for directory, middles, _ in (first, second, first):
        rom.call("set_cr3", SHIFT + (directory << 12))
        shown = [rom.entry(va(BOOT_TABLES) + 8 * slot) >> 12 for slot in range(3)]
        assert shown == [frame(middle) for middle in middles]
        assert rom.call("get_cr3") == SHIFT + (directory << 12)


def test_fault_brings_in_what_the_kernel_has_mapped_meanwhile() -> None:
    rom = booted()
    table, address = OWN[7], PAGE_OFFSET + 0x30000000
    rom.write(va(table), entry(OWN[8]))
    index = (address >> 21) & 511
    assert rom.call("bring_in_kernel_entry", address) == 0, "it is not mapped"
    rom.write(va(FIRST_FREE + 1) + 8 * index, entry(table))
    assert rom.call("bring_in_kernel_entry", address) == 1
    assert rom.entry(va(BOOT_TABLES + 4) + 8 * index) == entry(table)
    assert rom.type_of(frame(table)) == LEVEL_1
    assert rom.call("frame_at", address) == frame(OWN[8])
    assert rom.call("bring_in_kernel_entry", address) == 0, "the fault is the kernel's"


def test_tables_that_are_in_use_or_not_empty_are_kept() -> None:
    rom = booted()
    kernel = Kernel(rom, random.Random(2))
    directory, middles, _ = kernel.new_space()
    rom.call("set_cr3", SHIFT + (directory << 12))
    assert rom.call("forget_empty_table", va(middles[0])) == 0, "the hardware walks it"
    rom.call("set_cr3", SHIFT + (FIRST_FREE << 12))
    table = kernel.take()
    rom.call("store_entry", va(middles[0]), entry(table), 0)
    assert rom.call("forget_empty_table", va(middles[0])) == 0, "it names a table"
    assert rom.type_of(frame(middles[0])) == LEVEL_2


def test_low_memory_outlasts_a_kernel_that_maps_it_again() -> None:
    rom = booted()
    mine, kernels = (rom.va(name) for name in ("low_table", "kernels_low_table"))
    assert rom.entry(va(FIRST_FREE + 1)) == kernels - PAGE_OFFSET | USER
    assert mine != kernels
    assert rom.type_of((kernels - PAGE_OFFSET) >> 12) == ORDINARY, "what it stores there is memory"
