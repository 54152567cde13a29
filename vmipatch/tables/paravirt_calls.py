# SPDX-License-Identifier: MIT
"""Does a kernel copy native instructions over its paravirt calls, and what keeps it from that?

With CONFIG_PARAVIRT a kernel replaces the places of .parainstructions at boot. On what it takes for
bare hardware an i386 kernel copies instructions there, up to 5.2 from code between labels
(DEF_NATIVE in arch/x86/kernel/paravirt_patch_32.c, at first in paravirt.c), up to 5.8 from
constants (paravirt_patch.c). The copies are sites that have no record. The kernel parameter
noreplace-paravirt (since 2.6.22, arch/x86/kernel/alternative.c) sets a variable that leaves all of
these calls alone.
"""

from __future__ import annotations

from vmipatch.tables.source import SymbolsSource

COPIED = ("start_pv_irq_ops_irq_disable", "start_cli", "patch_data_xxl")
"""Where the instructions come from: cli is among them in every version."""
SWITCH = "noreplace_paravirt"


def call_keeper(symbols: SymbolsSource) -> int:
    """The address of the variable (int) that has to be 1 for the calls to stay.

    0 if the kernel copies no instructions, or has no such variable.
    """
    if all(symbols.address(name) is None for name in COPIED):
        return 0
    return symbols.address(SWITCH) or 0
