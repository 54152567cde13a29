# SPDX-License-Identifier: MIT
"""What do VMI_Init and VMI_GetRelocationInfo answer?"""

from __future__ import annotations

from functools import cache

import pytest

from tests.rom.machine import FLAGS, RING1_CS, RING1_SS, ROM_VA, RomMachine
from tests.rom.scene import PC_FLAVORS, prepared
from vmipatch.choices import Flavor
from vmipatch.rom import Rom, build_rom
from vmipatch.rom.entries import RelocationType, relocation_type
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import Hypercall

C = VmiCall


def test_paravirtual_init_asks_the_hypervisor_at_cpl_1_only() -> None:
    pc = RomMachine(build_rom(Flavor.PARAVIRT))
    pc.call(pc.rom.init_off)
    assert pc["eax"] == 0xFFFFFFFF
    assert pc.interrupts == []
    pc.descend(RING1_CS, RING1_SS)
    pc.on_interrupt = lambda m, vector: m.set({"eax": 0})
    pc.call(pc.rom.init_off)
    assert pc["eax"] == 0
    assert [i.vector for i in pc.interrupts] == [Hypercall.INIT]


@pytest.mark.parametrize("flavor", Flavor)
def test_init_fails_on_demand(flavor: Flavor) -> None:
    pc = RomMachine(build_rom(flavor, fail_init=True))
    pc.call(pc.rom.init_off)
    assert pc["eax"] == 1
    assert pc.interrupts == []


@pytest.mark.parametrize("flavor", PC_FLAVORS)
def test_native_init_succeeds(flavor: Flavor) -> None:
    pc, _ = prepared(flavor, {"eax": 5})
    pc.call(pc.rom.init_off)
    assert pc["eax"] == 0


@pytest.mark.parametrize("flavor", Flavor)
@pytest.mark.parametrize("none", [frozenset(), frozenset({C.CPUID, C.OUTSW})])
def test_get_reloc_answers_for_every_number(flavor: Flavor, none: frozenset[VmiCall]) -> None:
    pc = RomMachine(build_rom(flavor, none=none))
    for number in (*range(300), 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        pc.set({"eax": number, "edx": 77, "ecx": 88, "ebx": 99})
        pc["eflags"] = FLAGS | 2
        pc.call(pc.rom.get_reloc_off)
        call = next((c for c in VmiCall if c == number and c not in none), None)
        kind = RelocationType.NONE if call is None else relocation_type(call, flavor)
        entry = pc.rom.entries.get(call) if call is not None else None
        assert pc["edx"] == kind, number
        assert pc["eax"] == (0 if entry is None else ROM_VA + entry), number
        assert (pc["ecx"], pc["ebx"], pc["eflags"]) == (88, 99, FLAGS | 2)


@pytest.mark.parametrize("flavor", Flavor)
@pytest.mark.parametrize("rom_pa", range(0xC8000, 0xDC001, 0x800))
def test_rom_answers_wherever_a_bios_puts_it(flavor: Flavor, rom_pa: int) -> None:
    """Each multiple of 2 KiB; the paravirtual one up to its answers, for its place is our own."""
    pc = RomMachine(build_once(flavor), rom_pa=rom_pa)
    rom_va = pc.rom_va
    assert rom_pa + len(pc.rom.data) <= 0xE0000
    pc.call(pc.rom.init_off)
    assert pc["eax"] == (0xFFFFFFFF if flavor is Flavor.PARAVIRT else 0)
    for call, off in pc.rom.entries.items():
        pc["eax"] = call
        pc.call(pc.rom.get_reloc_off)
        assert (pc["edx"], pc["eax"]) == (RelocationType.CALL_REL, rom_va + off)
    if flavor is not Flavor.PARAVIRT:
        pc["edx"] = 1
        pc.call_vmi(C.GET_CR0)
        assert (pc["eax"], pc["edx"]) == (pc["cr0"], 1)


@cache
def build_once(flavor: Flavor) -> Rom:
    return build_rom(flavor)


@pytest.mark.parametrize("flavor", Flavor)
def test_rom_is_smaller_than_promised(flavor: Flavor) -> None:
    assert len(build_once(flavor).data) <= 32 << 10
