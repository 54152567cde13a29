# SPDX-License-Identifier: MIT
"""Does an entry read the arguments that the table of calls lists, and nothing else?"""

from __future__ import annotations

from typing import Any

import iced_x86 as iced
import pytest

from tests.rom.machine import GPRS
from tests.rom.test_disassembly import code_of
from vmipatch.choices import Flavor
from vmipatch.rom import Rom, build_rom
from vmipatch.rom.entries import SERVED, Means, served_calls
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.table import ROW_OF, ArgumentPlace

C = VmiCall
UNREAD = {
    C.UPDATE_KERNEL_STACK, C.UPDATE_PXE, C.UPDATE_PXE_LONG, C.ALLOCATE_PAGE, C.RELEASE_PAGE,
    C.SET_LINEAR_MAPPING, C.SET_INITIAL_AP_STATE, C.SET_LAZY_MODE,
}  # fmt: skip
"""Hints that are not needed."""
UNREAD_ARGUMENT = {C.SET_PXE: {"ecx"}}
"""The flags of a store that takes effect at once."""


def registers_read(code: bytes) -> set[str]:
    """General registers whose value at the beginning matters, but for saving them by PUSH.

    Follows branches; PUSH, or XCHG with the stack, of a register not written yet saves it.
    """
    factory = iced.InstructionInfoFactory()
    at = {i.ip: i for i in iced.Decoder(32, code, ip=0)}
    found: set[str] = set()
    seen: set[tuple[int, frozenset[str]]] = set()
    todo: list[tuple[int, frozenset[str]]] = [(0, frozenset())]
    while todo:
        place, written = todo.pop()
        if (place, written) in seen or place not in at:
            continue
        seen.add((place, written))
        instruction = at[place]
        is_save = instruction.mnemonic in (iced.Mnemonic.PUSH, iced.Mnemonic.XCHG)
        for used in factory.info(instruction).used_registers():
            name = _full(used.register)
            if name is None:
                continue
            if used.access in _READS and name not in written and not is_save:
                found.add(name)
        for used in factory.info(instruction).used_registers():
            name = _full(used.register)
            if name is not None and used.access in _WRITES:
                written |= {name}
        flow = instruction.flow_control
        if flow == iced.FlowControl.CALL:
            written |= set(ROW_OF[C.RDTSC].results)
        if flow in (iced.FlowControl.CONDITIONAL_BRANCH, iced.FlowControl.UNCONDITIONAL_BRANCH):
            todo.append((instruction.near_branch_target, written))
        if flow in _GOES_ON:
            todo.append((instruction.next_ip, written))
    return found


_A, _FLOW = iced.OpAccess, iced.FlowControl
_READS = {_A.READ, _A.COND_READ, _A.READ_WRITE, _A.READ_COND_WRITE}
_WRITES = {_A.WRITE, _A.READ_WRITE}
_GOES_ON = {_FLOW.NEXT, _FLOW.CONDITIONAL_BRANCH, _FLOW.CALL, _FLOW.INTERRUPT}


def _full(register: Any) -> str | None:
    full = iced.RegisterExt.full_register32(register)
    names = {getattr(iced.Register, name.upper()): name for name in GPRS}
    return names.get(full)


def expected(call: VmiCall) -> set[str]:
    if call in UNREAD:
        return set()
    places = {a.place.value for a in ROW_OF[call].arguments if a.place.is_register}
    return places - UNREAD_ARGUMENT.get(call, set())


def own_code(flavor: Flavor) -> list[VmiCall]:
    """Calls that are served without a hypercall."""
    calls = served_calls(flavor)
    if flavor is not Flavor.PARAVIRT:
        return list(calls)
    return [call for call in calls if SERVED[call] is not Means.HYPERCALL]


ROMS: dict[Flavor, Rom] = {flavor: build_rom(flavor) for flavor in Flavor}


@pytest.mark.parametrize(
    ("flavor", "call"),
    # An entry for tracing is the native one after a byte for the port: see test_disassembly.
    [(f, c) for f in (Flavor.NATIVE, Flavor.PARAVIRT) for c in own_code(f)],
)
def test_entry_reads_the_registers_of_its_arguments(flavor: Flavor, call: VmiCall) -> None:
    assert registers_read(code_of(ROMS[flavor], call)) == expected(call)


@pytest.mark.parametrize("flavor", Flavor)
@pytest.mark.parametrize("call", [C.WRITE_GDT_ENTRY, C.WRITE_LDT_ENTRY, C.WRITE_IDT_ENTRY])
def test_entry_reads_its_stack_argument_above_what_it_pushed(flavor: Flavor, call: VmiCall) -> None:
    decoder = iced.Decoder(32, code_of(ROMS[flavor], call))
    loads = [i for i in decoder if i.memory_base == iced.Register.ESP and i.op_count == 2]
    assert ArgumentPlace.STACK_1 in {a.place for a in ROW_OF[call].arguments}
    assert [i.memory_displacement for i in loads] == [8]
