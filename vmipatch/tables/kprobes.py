# SPDX-License-Identifier: MIT
"""Do the kprobes of this kernel know an instruction after prefixes?

A kprobe executes a copy of the instruction with TF set. Of pushf, popf, iret, cli and sti it has to
know what they do with the flags, and up to 2.6.35 it looks for them at the first byte of the copy
(is_IF_modifier() and resume_execution() in arch/i386/kernel/kprobes.c, later arch/x86/kernel): with
a prefix `cli` leaves interrupts on, and `pushf` pushes TF. Since 2.6.36 it skips prefixes, and asks
the decoder's table for them; since 5.13 (arch/x86/kernel/kprobes/core.c) it asks the decoder for
the opcode, and emulates these instructions by functions.
"""

from __future__ import annotations

from vmipatch.tables.near_calls import near_calls
from vmipatch.tables.source import ImageSource

PROBES = "register_kprobe"
EMULATES = "kprobe_emulate_ifmodifiers"
"""Since 5.13; its address is taken, so that it is a function of its own."""
TABLE, DECODER = "inat_get_opcode_attribute", "insn_"
"""The function that knows prefixes, and how the decoder's own begin, which ask it as well."""


def probe_first_bytes(image: ImageSource) -> bool:
    """Whether kprobes of `image`, a kernel, take a prefix for the instruction."""
    symbols = image.symbols
    if symbols.address(PROBES) is None or symbols.address(EMULATES) is not None:
        return False
    table_va = symbols.address(TABLE)
    if table_va is None:
        return True
    callers = (symbols.place_of(call_va) for call_va in near_calls(image, table_va))
    return all(caller.startswith(DECODER) for caller in callers)
