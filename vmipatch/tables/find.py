# SPDX-License-Identifier: MIT
"""Which of the known tables does this kernel have."""

from __future__ import annotations

from typing import Protocol

from vmipatch.errors import MalformedTable
from vmipatch.tables.alternatives import ALTERNATIVES, SMP_ALTERNATIVES
from vmipatch.tables.altinstr_replacement import ALTINSTR_REPLACEMENT
from vmipatch.tables.bug_table import BUG_TABLE
from vmipatch.tables.entry_stubs import EARLY_STUBS, INTERRUPTS, IRQ_STUBS, SPURIOUS_STUBS
from vmipatch.tables.ex_table import EX_TABLE
from vmipatch.tables.initcalls import CON_INITCALLS, INITCALLS, SECURITY_INITCALLS
from vmipatch.tables.inline_bugs import INLINE_BUGS
from vmipatch.tables.jump_table import JUMP_TABLE
from vmipatch.tables.kallsyms import KALLSYMS, KALLSYMS_BASE
from vmipatch.tables.kcrctab import ALL_KCRCTABS
from vmipatch.tables.kprobe_blacklist import KPROBE_BLACKLIST
from vmipatch.tables.ksymtab import ALL_KSYMTABS
from vmipatch.tables.mcount import MCOUNT
from vmipatch.tables.parainstructions import PARAINSTRUCTIONS
from vmipatch.tables.params import MODULE_PARAMS, SETUP_PARAMS
from vmipatch.tables.pci_fixups import PCI_FIXUPS
from vmipatch.tables.processors import CPU_DEVICES, IOMMU
from vmipatch.tables.pvh_note import PVH_NOTE
from vmipatch.tables.runtime_constants import RUNTIME_CONSTANTS
from vmipatch.tables.smp_locks import SMP_LOCKS
from vmipatch.tables.source import ImageSource
from vmipatch.tables.static_calls import STATIC_CALLS
from vmipatch.tables.syscalls import SYSCALLS
from vmipatch.tables.table import Table, TableName, Tables
from vmipatch.tables.tracing import (
    FTRACE_EVAL_MAPS,
    FTRACE_EVENTS,
    MARKERS,
    TRACEPOINT_ARRAY,
    TRACEPOINTS,
)
from vmipatch.tables.view import ImageView


class SoughtTable(Protocol):
    """A table that can be looked for."""

    @property
    def name(self) -> TableName:
        """Under which name it is found in Tables."""

    def parse(self, view: ImageView) -> Table | None:
        """The table, None if the kernel has none. Raises MalformedTable."""


KINDS: tuple[SoughtTable, ...] = (
    EX_TABLE,
    KALLSYMS,
    KALLSYMS_BASE,
    MCOUNT,
    ALTERNATIVES,
    ALTINSTR_REPLACEMENT,
    SMP_ALTERNATIVES,
    PARAINSTRUCTIONS,
    SMP_LOCKS,
    BUG_TABLE,
    INLINE_BUGS,
    JUMP_TABLE,
    STATIC_CALLS,
    INITCALLS,
    CON_INITCALLS,
    SECURITY_INITCALLS,
    SETUP_PARAMS,
    MODULE_PARAMS,
    IOMMU,
    CPU_DEVICES,
    KPROBE_BLACKLIST,
    FTRACE_EVENTS,
    FTRACE_EVAL_MAPS,
    TRACEPOINTS,
    TRACEPOINT_ARRAY,
    MARKERS,
    *ALL_KSYMTABS,
    *ALL_KCRCTABS,
    PCI_FIXUPS,
    SYSCALLS,
    INTERRUPTS,
    PVH_NOTE,
    RUNTIME_CONSTANTS,
    IRQ_STUBS,
    SPURIOUS_STUBS,
    EARLY_STUBS,
)

KINDS_OF_MODULE: tuple[SoughtTable, ...] = (
    EX_TABLE, ALTERNATIVES, ALTINSTR_REPLACEMENT, PARAINSTRUCTIONS, SMP_LOCKS, BUG_TABLE,
    JUMP_TABLE, STATIC_CALLS,
)  # fmt: skip
"""Those that say which code the kernel looks up, copies or patches. Whatever else in a module holds
an address has a relocation, and needs no more."""


def find_all(image: ImageSource) -> Tables:
    """Every table that `image` (an ElfImage) has, complete and valid.

    A table that the kernel lacks, or that is empty, is left out. Raises MalformedTable, naming
    table and entry, if one is there and fails its validation.
    """
    view = ImageView.of(image)
    found = (kind.parse(view) for kind in _kinds(view))
    return Tables(tuple(table for table in found if table is not None))


def find_readable(image: ImageSource) -> tuple[Tables, tuple[MalformedTable, ...]]:
    """The tables that fit a known layout, and why the others do not.

    A census can do without some tables; who moves code cannot, and asks `find_all`.
    """
    view = ImageView.of(image)
    found: list[Table] = []
    refusals: dict[str, MalformedTable] = {}
    for kind in _kinds(view):
        try:
            table = kind.parse(view)
        except MalformedTable as refusal:
            # One table may be asked for another's sake.
            refusals.setdefault(str(refusal), refusal)
            continue
        if table is not None:
            found.append(table)
    return Tables(tuple(found)), tuple(refusals.values())


def _kinds(view: ImageView) -> tuple[SoughtTable, ...]:
    return KINDS_OF_MODULE if view.is_module else KINDS
