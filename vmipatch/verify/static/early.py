# SPDX-License-Identifier: MIT
"""Does nothing that answers an interrupt pass for code that runs before paging is on?

What runs before paging keeps its instructions, for no ROM is mapped there. An entry of the IDT runs
later, at CPL 1, and so does all that it reaches: left native for that reason, `push ss` of the
entry code brings the kernel down. The entries are those that the kernel's own tables, arrays of
stubs and symbols name; control is followed from them in the original, with calls, as the second
decoder sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, Relocations
from vmipatch.image.symbols import SHN_ABS, STT_FUNC, STT_NOTYPE, Symbol
from vmipatch.isa.classify import classify
from vmipatch.tables.table import TableName, Tables
from vmipatch.verify.static.candidates import candidates
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.ledger import follow
from vmipatch.verify.static.matching import LOST
from vmipatch.verify.static.rules import EARLY_ENTRY
from vmipatch.verify.static.side import I64

IDT_DATA = ("early_idts", "early_pf_idts", "def_idts", "dbg_idts", "ist_idts", "apic_idts",
            "ia32_idt", "idt_table")  # fmt: skip
"""Arrays of struct idt_data, each with the address of a handler (arch/x86/kernel/idt.c since 4.14),
and the IDT itself, should a kernel initialise it at build time."""
STUBS = (TableName.IRQ_STUBS, TableName.SPURIOUS_STUBS, TableName.EARLY_STUBS, TableName.INTERRUPTS)

HANDLERS = re.compile(
    r"asm_(exc|sysvec)_\w+|asm_(common|spurious)_interrupt|\w+_interrupt|entry_INT80_32|system_call"
    r"|early_ignore_irq|ignore_int|early_(divide_err|illegal_opcode|protection_fault|page_fault)"
    r"|divide_error|debug|nmi|int3|overflow|bounds|invalid_op|device_not_available|double_fault"
    r"|coprocessor_segment_overrun|invalid_TSS|segment_not_present|stack_segment|page_fault"
    r"|general_protection|(simd_)?coprocessor_error|alignment_check|machine_check"
    r"|spurious_interrupt_bug|xen_hypervisor_callback"
)
"""Handlers of entry.S and entry_32.S from 2.4 to 5.7, of arch/x86/include/asm/idtentry.h since 5.8,
and of head_32.S. Functions of other kinds that have such a name run with paging on as well."""


def check_reached_early(comparison: Comparison, is_early: Callable[[int, int], bool]) -> None:
    """No sensitive instruction that an entry of the IDT reaches runs before paging.

    `is_early` says of a range of the original whether it does.
    """
    left, right, report = comparison.left, comparison.right, comparison.report
    entries = left.find(_entries(comparison.original, comparison.tables))
    reached = np.zeros(len(left), np.bool_)
    reached[entries[entries >= 0]] = True
    report.counts["entries of the IDT"] += int(reached.sum())
    reached, _ = follow(left, reached)
    which = candidates(left)
    for index in which[reached[which]].tolist():
        code = left.code(index)
        is_site = classify(code) is not None
        if is_site and is_early(int(left.starts[index]), left.end_va(index)):
            new = int(comparison.paired.new_of[index])
            message = f"`{code.hex(' ')}` would run before paging, and an interrupt comes to it"
            report.add(EARLY_ENTRY, int(right.starts[new]) if new != LOST else 0, message)


def _entries(image: ElfImage, tables: Tables) -> I64:
    """Handlers of the IDT, as far as names and tables say."""
    words = Relocations.of(image).entries
    words = words[words["kind"] == R_386_32]
    held = [np.zeros(0, np.int64)]
    for name in IDT_DATA:
        table = image.symbols.by_name.get(name)
        if table is not None:
            inside = (words["va"] >= table.va) & (words["va"] < table.va + table.size)
            held.append(words["value"][inside].astype(np.int64))
    for kind in STUBS:
        stubs = tables.get(kind)
        if stubs is not None:
            held.append(stubs.places["va"].astype(np.int64))
            held.append(stubs.address_words["target_va"].astype(np.int64))
    named = [symbol.va for symbol in image.symbols.by_name.values() if _is_handler(symbol)]
    return np.concatenate([*held, np.array(named, np.int64)])


def _is_handler(symbol: Symbol) -> bool:
    is_label = symbol.kind in (STT_FUNC, STT_NOTYPE) and symbol.section < SHN_ABS
    return is_label and HANDLERS.fullmatch(symbol.name) is not None
