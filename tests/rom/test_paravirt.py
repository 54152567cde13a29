# SPDX-License-Identifier: MIT
"""What does a deprivileged guest read and store, and when does it leave for the hypervisor?"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import x86_const as x86

from tests.rom.machine import (
    BUFFER_VA,
    FLAGS,
    IF,
    KERNEL_SS,
    SITE_VA,
    STACK_VA,
    RomMachine,
    cell_va,
)
from tests.rom.scene import STATES, prepared
from vmipatch.choices import Flavor
from vmipatch.rom import build_rom
from vmipatch.rom.entries import SERVED, Means
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import TSC_STEP, Hypercall, Shared, Time

C = VmiCall


@pytest.mark.parametrize("call", [c for c, means in SERVED.items() if means is Means.HYPERCALL])
@settings(max_examples=5)
@given(state=STATES)
def test_hypercall_hands_over_all_registers(
    call: VmiCall, state: tuple[dict[str, int], int]
) -> None:
    registers, flags = state
    pc, _ = prepared(Flavor.PARAVIRT, registers, flags)
    pc.call_vmi(call)
    (met,) = pc.interrupts
    assert met.vector == Hypercall.CALL
    assert met.registers == registers | {"ebx": call}
    assert met.stack == (registers["ebx"], SITE_VA + 5)


@pytest.mark.parametrize("call", [c for c, means in SERVED.items() if means is Means.HYPERCALL])
def test_hypercall_hands_over_the_stack(call: VmiCall) -> None:
    """After the caller's EBX and the return address are the arguments of the table."""
    pc, _ = prepared(Flavor.PARAVIRT, {"ebx": 0xB0B0})
    stacks: list[list[int]] = []
    pc.on_interrupt = lambda m, _: stacks.append([m.word(m["esp"] + 4 * i) for i in range(4)])
    pc.site(pc.rom.entries[call])
    pc.put(STACK_VA, 0x1111, 0x2222)
    pc.run(SITE_VA + 5, steps=8)
    assert stacks[0] == [0xB0B0, SITE_VA + 5, 0x1111, 0x2222]


def test_hypercall_result_reaches_the_caller() -> None:
    pc, _ = prepared(Flavor.PARAVIRT, {"eax": 6, "ebx": 7})
    pc.on_interrupt = lambda m, vector: m.set({"eax": 0x1234})
    pc.call_vmi(C.GET_DR)
    assert (pc["eax"], pc["ebx"]) == (0x1234, 7)


@pytest.mark.parametrize("pending", [0, 1])
@pytest.mark.parametrize("before", [0, IF])
@pytest.mark.parametrize(
    ("call", "after", "value"),
    [
        (C.ENABLE_INTERRUPTS, IF, 0),
        (C.DISABLE_INTERRUPTS, 0, 0),
        (C.SET_INTERRUPT_MASK, IF, 0xFFFFFFFF),
        (C.SET_INTERRUPT_MASK, IF, 0x200),
        (C.SET_INTERRUPT_MASK, 0, 0xFFFFFDFF),
        (C.GET_INTERRUPT_MASK, None, 0),
    ],
)
def test_virtual_if_is_stored_and_what_waits_is_delivered(
    call: VmiCall, after: int | None, value: int, before: int, pending: int
) -> None:
    pc, _ = prepared(Flavor.PARAVIRT, {"eax": value, "ecx": 99})
    pc.share(Shared.VIRTUAL_IF, before, pending)
    pc["eflags"] = IF | 2
    pc.call_vmi(call)
    assert pc.shared(Shared.VIRTUAL_IF) == (before if after is None else after)
    assert [i.vector for i in pc.interrupts] == [Hypercall.DELIVER] * (after == IF and pending)
    assert all(i.registers["ecx"] == 99 for i in pc.interrupts)


@settings(max_examples=30)
@given(flags=st.integers(0, FLAGS), virtual_if=st.sampled_from([0, IF]))
def test_guest_reads_virtual_if_and_no_other_flag(flags: int, virtual_if: int) -> None:
    pc, _ = prepared(Flavor.PARAVIRT, {})
    pc.share(Shared.VIRTUAL_IF, virtual_if)
    pc["eflags"] = flags & FLAGS | IF | 2
    pc.call_vmi(C.GET_INTERRUPT_MASK)
    assert pc["eax"] == virtual_if


@pytest.mark.parametrize(
    ("call", "cell"),
    [
        (C.GET_CR0, Shared.CR0), (C.GET_CR2, Shared.CR2), (C.GET_CR3, Shared.CR3),
        (C.GET_CR4, Shared.CR4), (C.GET_LDT, Shared.LDTR), (C.GET_TR, Shared.TR),
    ],
)  # fmt: skip
def test_guest_reads_shadows_without_an_exit(call: VmiCall, cell: Shared) -> None:
    pc, _ = prepared(Flavor.PARAVIRT, {})
    pc.share(cell, 0x12345678)
    pc.call_vmi(call)
    assert pc["eax"] == 0x12345678
    assert pc.interrupts == []


@pytest.mark.parametrize(("call", "cell"), [(C.GET_GDT, Shared.GDTR), (C.GET_IDT, Shared.IDTR)])
def test_guest_reads_six_bytes_of_a_table_register(call: VmiCall, cell: Shared) -> None:
    pc, _ = prepared(Flavor.PARAVIRT, {"eax": BUFFER_VA + 1})
    pc.uc.mem_write(BUFFER_VA, b"\xee" * 16)
    pc.share(cell, 0x56781234, 0xFFFF9ABC)
    pc.call_vmi(call)
    expected = b"\xee\x34\x12\x78\x56\xbc\x9a\xee"
    assert pc.uc.mem_read(BUFFER_VA, 8) == expected


def test_halt_is_one_exit() -> None:
    pc, _ = prepared(Flavor.PARAVIRT, {})
    pc.call_vmi(C.HALT)
    assert [i.vector for i in pc.interrupts] == [Hypercall.HALT]


def test_shutdown_asks_again_if_it_is_resumed() -> None:
    pc, _ = prepared(Flavor.PARAVIRT, {"ebx": 5})
    pc.site(pc.rom.entries[C.SHUTDOWN])
    pc.run(SITE_VA + 5, steps=8)
    assert len(pc.interrupts) > 1
    for met in pc.interrupts:
        assert (met.vector, met.registers["ebx"]) == (Hypercall.CALL, C.SHUTDOWN)
        assert met.stack == (5, SITE_VA + 5)


@settings(max_examples=40)
@given(
    left=st.integers(-(2**31), 2**40),
    base=st.integers(0, 2**44),
    scale=st.integers(1, 0xFFFFFFFF),
    skew=st.integers(-(2**60), 2**60),
    steps=st.integers(0, 2**63),
)
def test_rdtsc_is_the_formula_of_the_time_page(
    left: int, base: int, scale: int, skew: int, steps: int
) -> None:
    pc, _ = prepared(Flavor.PARAVIRT, {})
    set_clock(pc, left, base, scale, skew)
    pc.uc.mem_write(cell_va(Shared.TSC_STEPS), struct.pack("<Q", steps))
    for count in (1, 2):
        pc.call_vmi(C.RDTSC)
        expected = (base - left) * scale + skew + steps + count * TSC_STEP
        assert pc["edx"] << 32 | pc["eax"] == expected % 2**64
    assert pc.interrupts == []


def set_clock(pc: RomMachine, left: int, base: int, scale: int, skew: int) -> None:
    """Fill the time page."""
    clock = struct.pack("<qqqII", left, base, skew, scale, pc.shared(Time.SEQUENCE))
    pc.uc.mem_write(cell_va(Time.LEFT), clock)


def test_rdtsc_reads_again_when_the_clock_was_set_meanwhile() -> None:
    """The hypervisor may stop the guest at any instruction and move LEFT and BASE together."""
    for stop in range(1, 40):
        pc, _ = prepared(Flavor.PARAVIRT, {})
        set_clock(pc, 500, 1000, 3, 0)
        pc.uc.mem_write(cell_va(Shared.TSC_STEPS), bytes(8))
        pc.site(pc.rom.entries[C.RDTSC])
        for _ in range(stop):
            pc.run(SITE_VA + 5, steps=1)
        if pc["eip"] == SITE_VA + 5:
            break
        set_clock(pc, 1 << 33, 500 + (1 << 33), 3, 0)
        pc.share(Time.SEQUENCE, pc.shared(Time.SEQUENCE) + 1)
        pc.run(SITE_VA + 5)
        assert pc["edx"] << 32 | pc["eax"] == 500 * 3 + TSC_STEP
    else:
        raise AssertionError("the entry is longer than was thought")


def test_rdtsc_changes_both_halves_of_its_steps_at_once() -> None:
    """A handler that reads the clock at any instruction must not see the time go back."""
    start = 2**32 - TSC_STEP // 2
    for stop in range(1, 40):
        pc, _ = prepared(Flavor.PARAVIRT, {})
        set_clock(pc, 0, 0, 1, 0)
        pc.uc.mem_write(cell_va(Shared.TSC_STEPS), struct.pack("<Q", start))
        pc.site(pc.rom.entries[C.RDTSC])
        for _ in range(stop):
            pc.run(SITE_VA + 5, steps=1)
        if pc["eip"] == SITE_VA + 5:
            break
        seen = steps_of(pc)
        assert seen in (start, start + TSC_STEP)
        pc.uc.mem_write(cell_va(Shared.TSC_STEPS), struct.pack("<Q", seen + TSC_STEP))
        pc.run(SITE_VA + 5)
        assert steps_of(pc) == start + 2 * TSC_STEP, "the handler's step, and its own"
        assert start < pc["edx"] << 32 | pc["eax"] <= start + 2 * TSC_STEP
    else:
        raise AssertionError("the entry is longer than was thought")


def steps_of(pc: RomMachine) -> int:
    """The time that the guest has added to the clock."""
    low_va = cell_va(Shared.TSC_STEPS)
    return pc.word(low_va) | pc.word(low_va + 4) << 32


def test_data_segments_do_not_matter_to_hot_entries() -> None:
    """In entry code DS and ES are the user's, or null."""
    pc = RomMachine(build_rom(Flavor.PARAVIRT))
    for segment in ("DS", "ES", "FS", "GS"):
        pc.uc.reg_write(getattr(x86, f"UC_X86_REG_{segment}"), 0)
    pc.share(Shared.CR2, 4711)
    runs: list[tuple[VmiCall, Callable[[], bool]]] = [
        (C.ENABLE_INTERRUPTS, lambda: pc.shared(Shared.VIRTUAL_IF) == IF),
        (C.DISABLE_INTERRUPTS, lambda: pc.shared(Shared.VIRTUAL_IF) == 0),
        (C.GET_CR2, lambda: pc["eax"] == 4711),
        (C.RDTSC, lambda: pc["eax"] == TSC_STEP),
    ]
    for call, holds in runs:
        pc.call_vmi(call)
        assert holds(), call
    assert pc.uc.reg_read(x86.UC_X86_REG_SS) == KERNEL_SS
