# SPDX-License-Identifier: MIT
"""Does every entry do what its instruction does, and leave everything else alone?"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import x86_const as x86

from tests.rom.machine import (
    BUFFER_VA,
    FLAGS,
    GDT_VA,
    GPRS,
    IF,
    ROM_VA,
    SITE_VA,
    STACK_VA,
    TARGET_VA,
    TASK,
    RomMachine,
)
from tests.rom.scene import (
    ARGUMENTS,
    DATA,
    NO_RETURN,
    PC_FLAVORS,
    PORT,
    RESULTS,
    STATES,
    Ports,
    prepared,
)
from vmipatch.choices import Flavor
from vmipatch.rom import build_rom
from vmipatch.rom.entries import SERVED, Means, served_calls
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import Shared

C = VmiCall
COUNTED = {C.GET_CYCLE_COUNTER: 2, C.GET_DR: 6}
"""Calls that have a result for some numbers alone."""


@pytest.mark.parametrize(
    ("flavor", "call"),
    [(f, call) for f in Flavor for call in served_calls(f) if call not in NO_RETURN],
)
@settings(max_examples=15)
@given(state=STATES, interrupts=st.booleans())
def test_entry_keeps_registers_and_flags(
    flavor: Flavor, call: VmiCall, state: tuple[dict[str, int], int], interrupts: bool
) -> None:
    registers, flags = state[0] | ARGUMENTS.get(call, {}), state[1] & FLAGS
    pc, _ = prepared(flavor, registers, flags)
    real_if = IF if flavor is Flavor.PARAVIRT or interrupts else 0
    pc["eflags"] = flags | real_if | 2
    pc.call_vmi(call)
    keeps = [name for name in GPRS if name not in RESULTS.get(call, ())]
    assert {name: pc[name] for name in keeps} == {name: registers[name] for name in keeps}
    assert pc["eflags"] & FLAGS == flags
    assert pc["esp"] == STACK_VA
    if flavor is Flavor.PARAVIRT or call not in {
        C.ENABLE_INTERRUPTS, C.DISABLE_INTERRUPTS, C.SET_INTERRUPT_MASK, C.HALT,
    }:  # fmt: skip
        assert pc["eflags"] & IF == real_if


@pytest.mark.parametrize(
    ("flavor", "call"),
    [
        (f, call) for f in Flavor for call in served_calls(f)
        if RESULTS[call] and not (f is Flavor.PARAVIRT and SERVED[call] is Means.HYPERCALL)
    ],
)  # fmt: skip
def test_entry_fills_the_results_of_the_table(flavor: Flavor, call: VmiCall) -> None:
    """From two states that differ in every bit, no result stays as it was in both."""
    kept = set(RESULTS[call])
    for fill in (0x55555555, 0xAAAAAAAA):
        registers = dict.fromkeys(GPRS, fill) | ARGUMENTS.get(call, {})
        if call in COUNTED:
            registers["eax"] = COUNTED[call]
        pc, _ = prepared(flavor, registers)
        pc.share(Shared.CR0, *[0x12345678] * 10)
        pc.call_vmi(call)
        kept &= {name for name in kept if pc[name] == registers[name]}
    assert not kept


@pytest.mark.parametrize("flavor", PC_FLAVORS)
@pytest.mark.parametrize(
    ("call", "flag", "value"),
    [
        (C.ENABLE_INTERRUPTS, IF, 0),
        (C.DISABLE_INTERRUPTS, 0, 0),
        (C.SET_INTERRUPT_MASK, IF, 0xFFFFFFFF),
        (C.SET_INTERRUPT_MASK, IF, 0x200),
        (C.SET_INTERRUPT_MASK, 0, 0xFFFFFDFF),
        (C.HALT, IF, 0),
    ],
)
@pytest.mark.parametrize("before", [0, IF])
def test_if_calls_set_the_real_flag(
    flavor: Flavor, call: VmiCall, flag: int, value: int, before: int
) -> None:
    pc, _ = prepared(flavor, {"eax": value})
    pc["eflags"] = 2 | before
    pc.call_vmi(call)
    assert pc["eflags"] == 2 | flag


@pytest.mark.parametrize("flavor", PC_FLAVORS)
@pytest.mark.parametrize("flags", [FLAGS | IF | 2, FLAGS | 2, IF | 2, 2])
def test_interrupt_mask_is_if_and_no_other_flag(flavor: Flavor, flags: int) -> None:
    pc, _ = prepared(flavor, {})
    pc["eflags"] = flags
    pc.call_vmi(C.GET_INTERRUPT_MASK)
    assert (pc["eax"], pc["eflags"]) == (flags & IF, flags)


@pytest.mark.parametrize("flavor", PC_FLAVORS)
@pytest.mark.parametrize(
    ("set_call", "get_call", "value"),
    [
        (C.SET_CR0, C.GET_CR0, 0x3B),
        (C.SET_CR2, C.GET_CR2, 0xDEADBEEF),
        (C.SET_CR3, C.GET_CR3, 0x123000),
        (C.SET_CR4, C.GET_CR4, 0x280),
        (C.SET_TR, C.GET_TR, TASK),
    ],
)
def test_register_reads_back_as_written(
    flavor: Flavor, set_call: VmiCall, get_call: VmiCall, value: int
) -> None:
    pc, _ = prepared(flavor, {"eax": value})
    pc.call_vmi(set_call)
    pc["eax"] = 0x55555555
    pc.call_vmi(get_call)
    assert pc["eax"] == value
    if set_call.name.startswith("SET_CR"):
        assert pc[set_call.name[4:].lower()] == value


@pytest.mark.parametrize("flavor", PC_FLAVORS)
@pytest.mark.parametrize("number", range(8))
def test_debug_registers_go_by_number(flavor: Flavor, number: int) -> None:
    names = {4: "dr6", 5: "dr7"}
    name = names.get(number, f"dr{number}")
    value = {"dr6": 0xFFFF0FF1, "dr7": 0x400}.get(name, 0x1000 * number + 0x1000)
    pc, _ = prepared(flavor, {"eax": number, "edx": value})
    pc.call_vmi(C.SET_DR)
    assert pc[name] == value
    pc.call_vmi(C.GET_DR)
    assert pc["eax"] == value


@pytest.mark.parametrize("flavor", PC_FLAVORS)
@pytest.mark.parametrize("number", [8, 9, 0xFFFFFFFF])
def test_number_without_a_debug_register_is_ignored(flavor: Flavor, number: int) -> None:
    pc, _ = prepared(flavor, {"eax": number, "edx": 0x4000})
    before = [pc[f"dr{n}"] for n in (0, 1, 2, 3, 6, 7)]
    pc.call_vmi(C.SET_DR)
    pc.call_vmi(C.GET_DR)
    assert pc["eax"] == number
    assert [pc[f"dr{n}"] for n in (0, 1, 2, 3, 6, 7)] == before


@pytest.mark.parametrize("flavor", PC_FLAVORS)
def test_tables_read_back_as_written(flavor: Flavor) -> None:
    for set_call, get_call in ((C.SET_GDT, C.GET_GDT), (C.SET_IDT, C.GET_IDT)):
        pc, _ = prepared(flavor, {"eax": BUFFER_VA})
        pc.call_vmi(set_call)
        pc["eax"] = BUFFER_VA + 9
        pc.call_vmi(get_call)
        assert pc.uc.mem_read(BUFFER_VA + 9, 7) == struct.pack("<HIx", 0x3F, GDT_VA)


@pytest.mark.parametrize("flavor", PC_FLAVORS)
def test_clts_clears_ts(flavor: Flavor) -> None:
    pc, _ = prepared(flavor, {})
    pc["cr0"] = 0x19
    pc.call_vmi(C.CLTS)
    assert pc["cr0"] == 0x11


@pytest.mark.parametrize("flavor", Flavor)
@pytest.mark.parametrize(("call", "size"), [(C.INL, 4), (C.INW, 2), (C.INB, 1)])
def test_in_replaces_as_much_as_it_reads(flavor: Flavor, call: VmiCall, size: int) -> None:
    pc, _ = prepared(flavor, {"eax": 0x01020304, "edx": PORT})
    pc.call_vmi(call)
    mask = (1 << 8 * size) - 1
    assert pc["eax"] == 0x01020304 & ~mask | DATA & mask


@pytest.mark.parametrize("flavor", Flavor)
@pytest.mark.parametrize(("call", "size"), [(C.OUTL, 4), (C.OUTW, 2), (C.OUTB, 1)])
def test_out_writes_once(flavor: Flavor, call: VmiCall, size: int) -> None:
    pc, ports = prepared(flavor, {"eax": DATA, "edx": PORT})
    pc.call_vmi(call)
    assert ports.writes[-1] == (PORT, size, DATA & (1 << 8 * size) - 1)
    assert len(ports.writes) == 1 + (flavor is Flavor.TRACE)


@pytest.mark.parametrize("flavor", Flavor)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("call", "size"), [(C.INSL, 4), (C.INSW, 2), (C.INSB, 1)])
def test_ins_fills_memory(flavor: Flavor, call: VmiCall, size: int, backwards: bool) -> None:
    state = {"edx": PORT, "ecx": 3, "edi": BUFFER_VA}
    pc, _ = prepared(flavor, state, 0x400 if backwards else 0)
    pc.call_vmi(call)
    step = -size if backwards else size
    assert (pc["edi"], pc["ecx"]) == (BUFFER_VA + 3 * step, 0)
    for index in range(3):
        assert pc.word(BUFFER_VA + index * step) & (1 << 8 * size) - 1 == DATA & (1 << 8 * size) - 1


@pytest.mark.parametrize("flavor", Flavor)
@pytest.mark.parametrize(("call", "size"), [(C.OUTSL, 4), (C.OUTSW, 2), (C.OUTSB, 1)])
def test_outs_empties_memory(flavor: Flavor, call: VmiCall, size: int) -> None:
    pc, ports = prepared(flavor, {"edx": PORT, "ecx": 3, "esi": BUFFER_VA})
    pc.uc.mem_write(BUFFER_VA, bytes(range(1, 13)))
    pc.call_vmi(call)
    expected = [bytes(range(1, 13))[n * size :][:size] for n in range(3)]
    assert [w[2].to_bytes(size, "little") for w in ports.writes if w[0] == PORT] == expected
    assert (pc["esi"], pc["ecx"]) == (BUFFER_VA + 3 * size, 0)


@pytest.mark.parametrize("call", [c for c in served_calls(Flavor.TRACE) if c is not C.SHUTDOWN])
def test_trace_writes_the_call_number(call: VmiCall) -> None:
    pc, ports = prepared(Flavor.TRACE, ARGUMENTS.get(call, {}))
    pc.site(pc.rom.entries[call])
    pc.run(SITE_VA + 5, steps=5)
    assert ports.writes == [(0xE9, 1, call)]


@pytest.mark.parametrize("flavor", PC_FLAVORS)
def test_native_iret_returns_to_the_frame(flavor: Flavor) -> None:
    pc, _ = prepared(flavor, {"eax": 1, "ecx": 2})
    pc.site(pc.rom.entries[C.IRET])
    pc["esp"] = STACK_VA - 12
    pc.put(STACK_VA - 12, TARGET_VA, 0x08, 0x2D7)
    pc.run(TARGET_VA)
    assert (pc["eip"], pc["esp"], pc["eflags"]) == (TARGET_VA, STACK_VA, 0x2D7)
    assert (pc["eax"], pc["ecx"]) == (1, 2)


@pytest.mark.parametrize("flavor", PC_FLAVORS)
def test_native_sysexit_goes_to_user_mode_with_interrupts_on(flavor: Flavor) -> None:
    pc = RomMachine(build_rom(flavor))
    Ports(pc.uc)
    pc.uc.reg_write(x86.UC_X86_REG_MSR, (0x174, 0x60))
    pc.set({"edx": TARGET_VA, "ecx": STACK_VA - 64})
    pc.site(pc.rom.entries[C.SYSEXIT])
    pc.run(TARGET_VA)
    assert (pc["eip"], pc["esp"], pc["cs"]) == (TARGET_VA, STACK_VA - 64, 0x73)
    assert pc["eflags"] & IF


@pytest.mark.parametrize("flavor", PC_FLAVORS)
def test_native_shutdown_never_returns(flavor: Flavor) -> None:
    pc, _ = prepared(flavor, {})
    pc.site(pc.rom.entries[C.SHUTDOWN])
    for _ in range(3):
        pc.run(SITE_VA + 5, steps=20)
        assert ROM_VA < pc["eip"] < ROM_VA + len(pc.rom.data)
        assert not pc["eflags"] & IF
