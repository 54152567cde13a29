# SPDX-License-Identifier: MIT
"""Does our page walk find what the CPU finds?

The expectations are the SDM's; that the CPU agrees is shown by running both over the same tables.
"""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA, Guest
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.processor.bits import Cr0, Cr4
from vmipatch.emu.processor.memory import MIN_RAM_LEN, GuestMemory
from vmipatch.emu.processor.paging import ACCESSED, DIRTY, LARGE, PRESENT, WRITABLE, Mmu, PageFault

DIRECTORY, TABLE, PAE_ROOT = 0x2000, 0x3000, 0x4000
RIGHTS = PRESENT | WRITABLE


@pytest.fixture
def machine() -> Machine:
    return build_machine(MachineSpec(options=MachineOptions(ram_len=MIN_RAM_LEN)))


def page_on(
    machine: Machine, *, pae: bool = False, protect: bool = True
) -> tuple[GuestMemory, Mmu]:
    registers = machine.cpu.registers
    registers.cr4 = Cr4.PSE | (Cr4.PAE if pae else 0)
    registers.cr3 = PAE_ROOT if pae else DIRECTORY
    registers.cr0 = Cr0.PE | Cr0.PG | (Cr0.WP if protect else 0)
    return machine.memory, machine.mmu


def test_without_paging_linear_is_physical(machine: Machine) -> None:
    assert machine.mmu.translate(0x12345) == 0x12345


def test_small_page(machine: Machine) -> None:
    memory, mmu = page_on(machine)
    memory.write_u32(DIRECTORY + 4 * 0x300, TABLE | RIGHTS)
    memory.write_u32(TABLE + 4 * 5, 0x7000 | RIGHTS)
    assert mmu.translate(0xC0005ABC) == 0x7ABC
    assert mmu.find(0xC0006000) is None


def test_large_page(machine: Machine) -> None:
    memory, mmu = page_on(machine)
    memory.write_u32(DIRECTORY + 4 * 0x300, LARGE | RIGHTS)
    assert mmu.translate(0xC0123456) == 0x123456


def test_pae_pages(machine: Machine) -> None:
    memory, mmu = page_on(machine, pae=True)
    memory.write_u32(PAE_ROOT + 8 * 3, DIRECTORY | PRESENT)
    memory.write_u32(DIRECTORY, LARGE | RIGHTS | 0x200000)
    memory.write_u32(DIRECTORY + 8, TABLE | RIGHTS)
    memory.write_u32(TABLE + 8 * 2, 0x9000 | RIGHTS)
    memory.write_u32(TABLE + 8 * 2 + 4, 0x80000000)  # no execution
    assert mmu.translate(0xC0012345) == 0x212345
    assert mmu.translate(0xC0202010) == 0x9010
    assert mmu.find(0x1000) is None


def test_access_is_marked_and_a_look_is_not(machine: Machine) -> None:
    memory, mmu = page_on(machine)
    memory.write_u32(DIRECTORY, TABLE | RIGHTS)
    memory.write_u32(TABLE, 0x7000 | RIGHTS)
    mmu.find(0)
    assert memory.read_u32(TABLE) == 0x7000 | RIGHTS
    mmu.translate(0)
    assert memory.read_u32(TABLE) == 0x7000 | RIGHTS | ACCESSED
    mmu.translate(0, write=True)
    assert memory.read_u32(TABLE) == 0x7000 | RIGHTS | ACCESSED | DIRTY
    assert memory.read_u32(DIRECTORY) == TABLE | RIGHTS | ACCESSED


@pytest.mark.parametrize(("protect", "code"), [(True, 3), (False, None)])
def test_write_protection_binds_the_kernel_if_it_wants(
    machine: Machine, protect: bool, code: int | None
) -> None:
    memory, mmu = page_on(machine, protect=protect)
    memory.write_u32(DIRECTORY, TABLE | RIGHTS)
    memory.write_u32(TABLE, 0x7000 | PRESENT)
    if code is None:
        assert mmu.translate(0x10, write=True) == 0x7010
        return
    with pytest.raises(PageFault) as caught:
        mmu.translate(0x10, write=True)
    assert (caught.value.va, caught.value.code) == (0x10, code)


def test_frame_across_two_pages_is_written_whole_or_not_at_all(machine: Machine) -> None:
    memory, mmu = page_on(machine)
    memory.write_u32(DIRECTORY, TABLE | RIGHTS)
    memory.write_u32(TABLE, 0x7000 | RIGHTS)
    with pytest.raises(PageFault):
        mmu.write_words(0xFF8, (1, 2, 3, 4))
    assert memory.read(0x7FF8, 8) == bytes(8)
    memory.write_u32(TABLE + 4, 0x5000 | RIGHTS)
    mmu.write_words(0xFF8, (1, 2, 3, 4))
    assert [memory.read_u32(pa) for pa in (0x7FF8, 0x7FFC, 0x5000, 0x5004)] == [1, 2, 3, 4]
    assert mmu.read(0xFFC, 8) == memory.read(0x7FFC, 4) + memory.read(0x5000, 4)


def test_cpu_walks_the_same_way() -> None:
    source = f"""
        mov dword ptr [0x130000], 0x83
        mov dword ptr [0x130004], 0x131007
        mov dword ptr [0x131008], {DATA_PA + 7}
        mov eax, 0x130000
        mov cr3, eax
        mov eax, 0x10
        mov cr4, eax
        mov eax, 0x80000001
        mov cr0, eax
        mov dword ptr [0x402010], 0x600dcafe
        hlt
    """
    run = Guest(source).run()
    assert run.word(4) == 0x600DCAFE
    assert run.machine.mmu.find(0x402010) == DATA_PA + 0x10
    assert run.machine.memory.read_u32(0x131008) == DATA_PA + 7 | ACCESSED | DIRTY


CODE_DIRECTORY, PROBE_PA, CODE_VA, READ_VA = 0x5000, 0x8000, 0x40000000, 0x10010
HIGHER = (0, 0x8, 0x80, 0x100, 0x8000, 0x40000000)
LOWER = (0, 1, 3, 7, 0x63, 0x83, 0x87, 0xE3, 0x2083, 0x200083, 0x400083, 0x1FE083)


@pytest.mark.parametrize("pae", [False, True])
def test_cpu_finds_the_same_page_for_any_entry(
    machine: Machine, pae: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of entry, in both levels: a load in the guest against our walk."""
    memory, mmu = page_on(machine, pae=pae)
    cpu, registers, width = machine.cpu, machine.cpu.registers, 8 if pae else 4
    faults: list[int] = []

    def note(_number: int) -> None:
        cpu.take_exception()
        faults.append(registers.error_code)
        cpu.stop()

    monkeypatch.setattr(machine.privilege, "on_interrupt", note)
    memory.write_u32(PAE_ROOT, DIRECTORY | PRESENT)
    memory.write_u32(PAE_ROOT + 8, CODE_DIRECTORY | PRESENT)
    memory.write_u32(CODE_DIRECTORY if pae else DIRECTORY + 4 * 0x100, LARGE | RIGHTS)
    memory.load(PROBE_PA, bytes.fromhex("8b03f4"))  # mov eax, [ebx]; hlt
    for page in range(0, MIN_RAM_LEN, 0x1000):
        memory.write_u32(page + 0x10, page)
    entries = [(low, high) for low in LOWER for high in (HIGHER if pae else (0,))]
    tables = [((TABLE | RIGHTS, 0), entry) for entry in entries]
    for pair in [*tables, *((entry, (0, 0)) for entry in entries)]:
        for place, (low, high) in zip((DIRECTORY, TABLE + 0x10 * width), pair, strict=True):
            memory.write_u32(place, low)
            if pae:
                memory.write_u32(place + 4, high)
        registers.cr3 = registers.cr3
        faults.clear()
        registers.ebx, registers.eip = READ_VA, CODE_VA + PROBE_PA
        machine.clock.grant_slice()
        cpu.run()
        if faults:
            with pytest.raises(PageFault) as caught:
                mmu.translate(READ_VA)
            assert caught.value.code == faults[0], pair
        else:
            pa = mmu.find(READ_VA)
            assert pa is not None, pair
            assert registers.eax == memory.read_u32(pa), pair
