# SPDX-License-Identifier: MIT
"""In which states are the entries called, and what may each of them change?"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import unicorn
from hypothesis import strategies as st
from unicorn import x86_const as x86

from tests.rom.machine import BUFFER_VA, FLAGS, GDT_VA, GPRS, TASK, RomMachine
from vmipatch.choices import Flavor
from vmipatch.rom import build_rom
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import Shared
from vmipatch.vmi.table import ROWS

C = VmiCall
U32 = st.integers(0, 0xFFFFFFFF)
STATES = st.tuples(st.fixed_dictionaries(dict.fromkeys(GPRS, U32)), st.integers(0, FLAGS))
PC_FLAVORS = (Flavor.NATIVE, Flavor.TRACE)
NO_RETURN = {C.IRET, C.SYSEXIT, C.SHUTDOWN, C.REBOOT}
PORT, DATA = 0x1234, 0x89ABCDEF

RESULTS = {row.call: row.results for row in ROWS}
"""The registers that a call may change."""

ARGUMENTS: dict[VmiCall, dict[str, int]] = {
    **{key: {"eax": BUFFER_VA} for key in (C.SET_GDT, C.SET_IDT, C.GET_GDT, C.GET_IDT)},
    C.SET_LDT: {"eax": 0},
    C.SET_TR: {"eax": TASK},
    C.SET_CR0: {"eax": 0x3B},
    C.SET_CR3: {"eax": 0x123000},
    C.SET_CR4: {"eax": 0x280},
    C.SET_DR: {"eax": 2},
    **{
        key: {"eax": BUFFER_VA, "edx": 1}
        for key in (C.WRITE_GDT_ENTRY, C.WRITE_LDT_ENTRY, C.WRITE_IDT_ENTRY)
    },
    C.SET_PXE: {"edx": BUFFER_VA},
    C.SET_PXE_LONG: {"ecx": BUFFER_VA},
    **{key: {"edx": PORT} for key in (C.INL, C.INB, C.INW, C.OUTL, C.OUTB, C.OUTW)},
    **{key: {"edx": PORT, "ecx": 3, "edi": BUFFER_VA} for key in (C.INSL, C.INSW, C.INSB)},
    **{key: {"edx": PORT, "ecx": 3, "esi": BUFFER_VA} for key in (C.OUTSL, C.OUTSW, C.OUTSB)},
}
"""Arguments that the processor accepts; the rest of a state is arbitrary."""


class Ports:
    """Traffic through the ports of a machine: reads see DATA, writes are kept."""

    def __init__(self, uc: Any) -> None:
        self.writes: list[tuple[int, int, int]] = []
        uc.hook_add(unicorn.UC_HOOK_INSN, self._in, None, 1, 0, x86.UC_X86_INS_IN)
        uc.hook_add(unicorn.UC_HOOK_INSN, self._out, None, 1, 0, x86.UC_X86_INS_OUT)

    def _in(self, uc: Any, port: int, size: int, data: object) -> int:
        assert port == PORT
        return DATA & (1 << 8 * size) - 1

    def _out(self, uc: Any, port: int, size: int, value: int, data: object) -> None:
        self.writes.append((port, size, value))


@cache
def machine(flavor: Flavor) -> tuple[RomMachine, Ports]:
    """One machine a flavour: making one takes longer than a call."""
    made = RomMachine(build_rom(flavor))
    return made, Ports(made.uc)


def prepared(flavor: Flavor, registers: dict[str, int], flags: int = 2) -> tuple[RomMachine, Ports]:
    """The machine, its tables and pages as at the start, in a given state."""
    made, ports = machine(flavor)
    ports.writes.clear()
    made.on_interrupt = None
    made.uc.reg_write(x86.UC_X86_REG_GDTR, (0, GDT_VA, 0x3F, 0))
    made.uc.mem_write(GDT_VA + TASK + 5, b"\x89")  # available again
    made.uc.mem_write(BUFFER_VA - 16, bytes(48))
    made.uc.mem_write(BUFFER_VA, struct.pack("<HI", 0x3F, GDT_VA))
    made.share(Shared.VIRTUAL_IF, 0, 0)
    made.set(dict.fromkeys(GPRS, 0) | registers)
    made["eflags"] = flags & FLAGS | 2
    return made, ports
