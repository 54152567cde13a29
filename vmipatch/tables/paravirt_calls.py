# SPDX-License-Identifier: MIT
"""Does a kernel copy native instructions over its paravirt calls, and what keeps it from that?

With CONFIG_PARAVIRT a kernel replaces the places of .parainstructions at boot, and those of a
module when it is loaded. On what it takes for bare hardware an i386 kernel copies instructions
there, up to 5.1 from code between labels (DEF_NATIVE in arch/x86/kernel/paravirt_patch_32.c, at
first in paravirt.c), up to 5.8 from constants (paravirt_patch.c). The copies are sites that have no
record. Two things leave all of these calls alone:

- the variable of the kernel parameter noreplace-paravirt (arch/x86/kernel/alternative.c from 2.6.22
  to 4.15);
- a return in the place of the first instruction of apply_paravirt(start, end), which does the work
  in every version from 2.6.20 on, and gives nothing back. A call of the tracer that stands in front
  of it (-mfentry) stays, for ftrace looks for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmipatch.tables.source import SymbolsSource
from vmipatch.tables.table import Role, TableName, Tables

COPIED = (
    "start_cli",
    "start_pv_irq_ops_irq_disable",
    "start_irq_irq_disable",
    "patch_data_xxl",
)
"""Where the instructions come from: labels up to 2.6.24, 4.19 and 5.1, and the constants of 5.2 to
5.8. cli is among them in every version."""
NATIVE = "native_irq_disable"
"""The function in the pointer of the call that cli is copied over: one of its own only where
there is such a pointer. Unlike constants, kallsyms always lists it."""
SWITCH, PATCHER = "noreplace_paravirt", "apply_paravirt"

SWITCHED_ON, RETURN = 0x01, 0xC3


@dataclass(frozen=True, slots=True)
class CallKeeper:
    """A byte that keeps the paravirt calls if it is written before the kernel comes to it."""

    va: int
    value: int
    """SWITCHED_ON, the variable's lowest byte, or RETURN, an instruction."""


def call_keeper(symbols: SymbolsSource, tables: Tables) -> CallKeeper | None:
    """The rule that keeps the paravirt calls of this kernel.

    None if the kernel copies no instructions, or nothing is known to keep it from that.
    """
    copies = any(symbols.address(name) is not None for name in COPIED)
    has_pointer = symbols.address(NATIVE) is not None
    has_calls = tables.get(TableName.PARAINSTRUCTIONS) is not None
    if not copies and not (has_pointer and has_calls):
        return None
    switch_va, patcher_va = symbols.address(SWITCH), symbols.address(PATCHER)
    if switch_va is not None:
        return CallKeeper(switch_va, SWITCHED_ON)
    if patcher_va is None:
        return None
    traced = tables.places(TableName.MCOUNT, Role.INSTRUCTION)
    lens = traced["len"][traced["va"] == patcher_va].tolist()
    return CallKeeper(patcher_va + sum(lens), RETURN)
