# SPDX-License-Identifier: MIT
"""Does the paravirtual IRET return as the frame says, whatever interrupts it?"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rom.machine import (
    FLAGS,
    IF,
    RING1_CS,
    RING1_SS,
    ROM_VA,
    SITE_VA,
    STACK_VA,
    TARGET_VA,
    USER_CS,
    USER_SS,
    RomMachine,
    cell_va,
)
from vmipatch.choices import Flavor
from vmipatch.rom import build_rom
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import Hypercall, Restart, Shared

VM = 0x20000
REGISTERS = {"eax": 1, "ebx": 2, "ecx": 3, "edx": 4, "esi": 5, "edi": 6, "ebp": 7}
USER_ESP = STACK_VA - 0x80
FRAME_VA = STACK_VA - 20
CODE_SELECTORS = [RING1_CS & ~3, RING1_CS, USER_CS]
ARITHMETIC = FLAGS & 0xFF | 2


def guest_at_site(cs: int, flags: int, pending: int = 0) -> RomMachine:
    """A guest at CPL 1 in front of an IRET site with its frame on the stack."""
    pc = RomMachine(build_rom(Flavor.PARAVIRT))
    pc.descend(RING1_CS, RING1_SS)
    pc.site(pc.rom.entries[VmiCall.IRET])
    pc.put(FRAME_VA, TARGET_VA, cs, flags, USER_ESP, USER_SS)
    pc.share(Shared.VIRTUAL_IF, 0, pending)
    pc.set(REGISTERS | {"esp": FRAME_VA, "eflags": IF | 2})
    return pc


def finish(pc: RomMachine) -> bool:
    """Run to the end of the return; whether the hypervisor was asked to do it."""
    asked = []

    def stop(machine: RomMachine, vector: int) -> None:
        assert vector == Hypercall.IRET
        asked.append(machine["esp"])
        machine.uc.emu_stop()

    pc.on_interrupt = stop
    if pc["eip"] != TARGET_VA:
        pc.run(TARGET_VA)
    assert asked or pc["eip"] == TARGET_VA
    assert asked in ([], [FRAME_VA])
    return bool(asked)


def registers_of(pc: RomMachine) -> dict[str, int]:
    """All general registers but ESP."""
    return {name: pc[name] for name in REGISTERS}


@settings(max_examples=25)
@given(cs=st.sampled_from(CODE_SELECTORS), flags=st.integers(0, FLAGS), virtual=st.booleans())
def test_return_follows_the_frame_without_an_exit(cs: int, flags: int, virtual: bool) -> None:
    pc = guest_at_site(cs, flags & FLAGS | (IF if virtual else 0) | 2)
    assert not finish(pc)
    assert registers_of(pc) == REGISTERS
    to_user = cs == USER_CS
    assert pc["cs"] == (USER_CS if to_user else RING1_CS)
    assert pc["esp"] == (USER_ESP if to_user else FRAME_VA + 12)
    assert pc["eflags"] & FLAGS == flags & FLAGS
    assert pc.shared(Shared.VIRTUAL_IF) == (IF if virtual else 0)
    assert pc.shared(Shared.IRET_SITE) == SITE_VA


@pytest.mark.parametrize("cs", CODE_SELECTORS)
def test_waiting_event_makes_the_hypervisor_return(cs: int) -> None:
    pc = guest_at_site(cs, IF | 2, pending=1)
    assert finish(pc)
    assert registers_of(pc) == REGISTERS
    assert [pc.word(FRAME_VA + off) for off in (0, 8)] == [TARGET_VA, IF | 2]


@pytest.mark.parametrize("cs", CODE_SELECTORS)
def test_event_waits_on_while_the_frame_keeps_interrupts_off(cs: int) -> None:
    pc = guest_at_site(cs, 2, pending=1)
    assert not finish(pc)
    assert pc.shared(Shared.PENDING) == 1


@pytest.mark.parametrize("flags", [VM | 2, VM | IF | 2, VM | 0x240000 | 2])
def test_frame_of_virtual_8086_mode_goes_to_the_hypervisor_unchanged(flags: int) -> None:
    pc = guest_at_site(0x1234, flags)
    assert finish(pc)
    assert registers_of(pc) == REGISTERS
    assert pc.word(FRAME_VA + 4) == 0x1234


@pytest.mark.parametrize("cs", [0x1000, 0xFFF3])
def test_refused_return_faults_at_the_marked_instruction_with_the_frame_in_place(cs: int) -> None:
    pc = guest_at_site(cs, 0x2D7)
    vectors = []

    def stop(machine: RomMachine, vector: int) -> None:
        vectors.append(vector)
        machine.uc.emu_stop()

    pc.on_interrupt = stop
    pc.run(TARGET_VA)
    assert vectors[:1] == [13]
    assert pc["eip"] == ROM_VA + pc.rom.marks.iret_off
    assert pc["esp"] == FRAME_VA
    assert registers_of(pc) == REGISTERS
    assert pc.shared(Shared.IRET_SITE) == SITE_VA


def test_return_on_another_stack_segment_is_a_hypercall_and_leaves_the_page_alone() -> None:
    """With a base in SS (Linux: espfix) the ROM could not reach the page through it."""
    pc = guest_at_site(USER_CS, IF | 2)
    pc["eflags"] = ARITHMETIC | IF
    other = (-(RING1_SS + 8) & 0xFFFFFFFF).to_bytes(4, "little")
    pc.uc.mem_write(ROM_VA + pc.rom.marks.stack_off, other)
    page = pc.uc.mem_read(cell_va(Shared.VIRTUAL_IF), 64)
    seen = []

    def stop(machine: RomMachine, vector: int) -> None:
        stack = [machine.word(machine["esp"] + off) for off in (0, 4, 8)]
        seen.append((vector, machine["esp"], machine["eflags"], stack))
        assert machine["ebx"] == VmiCall.IRET
        machine.uc.emu_stop()

    pc.on_interrupt = stop
    pc.run(TARGET_VA)
    behind_site = SITE_VA + 5
    stack = [REGISTERS["ebx"], behind_site, TARGET_VA]
    assert seen == [(Hypercall.CALL, FRAME_VA - 8, ARITHMETIC | IF, stack)]
    assert registers_of(pc) == REGISTERS | {"ebx": VmiCall.IRET}
    assert pc.uc.mem_read(cell_va(Shared.VIRTUAL_IF), 64) == page


def test_flags_at_a_fault_are_those_of_the_site() -> None:
    """Nothing before the hardware IRET touches them."""
    pc = guest_at_site(RING1_CS, IF | 2)
    pc["eflags"] = ARITHMETIC | IF
    pc.run(ROM_VA + pc.rom.marks.iret_off)
    assert pc["eip"] == ROM_VA + pc.rom.marks.iret_off
    assert pc["eflags"] == ARITHMETIC | IF


def rewind(pc: RomMachine) -> None:
    """Do as the hypervisor does with an event at this place, after vmi/shared.py."""
    off = pc["eip"] - ROM_VA
    region = next((r for r in pc.rom.restarts if r.start_off <= off < r.end_off), None)
    if pc.shared(Shared.VIRTUAL_IF) and region is not None:
        if region.kind is Restart.IRET_ECX_SAVED:
            pc["ecx"] = pc.word(pc["esp"])
            pc["esp"] += 4
        pc["eip"] = ROM_VA + region.entry_off
        pc.share(Shared.VIRTUAL_IF, 0)
    pc.share(Shared.PENDING, 1)


@pytest.mark.parametrize("cs", CODE_SELECTORS)
@pytest.mark.parametrize("virtual_if", [0, IF])
def test_event_at_any_instruction_is_neither_lost_nor_early(cs: int, virtual_if: int) -> None:
    rewound = 0
    for stop in range(1, 40):
        pc = guest_at_site(cs, virtual_if | 2)
        for _ in range(stop):
            pc.run(TARGET_VA, steps=1)
        if pc["eip"] == TARGET_VA:
            break
        before = pc["eip"]
        rewind(pc)
        rewound += pc["eip"] != before
        assert finish(pc) == bool(virtual_if)
        assert registers_of(pc) == REGISTERS
        assert pc.shared(Shared.IRET_SITE) == SITE_VA
    else:
        raise AssertionError("the entry is longer than was thought")
    assert rewound == (5 if virtual_if else 0)


def test_no_event_can_be_delivered_outside_the_regions() -> None:
    """A handler's IRET would write its own site over the one under way."""
    pc = guest_at_site(RING1_CS, IF | 2)
    pc.share(Shared.VIRTUAL_IF, IF)
    pc.run(TARGET_VA, steps=7)  # the call, a look at SS, and the store that switches virtual IF off
    while pc["eip"] != TARGET_VA:
        off = pc["eip"] - ROM_VA
        covered = any(r.start_off <= off < r.end_off for r in pc.rom.restarts)
        assert covered or not pc.shared(Shared.VIRTUAL_IF)
        pc.run(TARGET_VA, steps=1)
