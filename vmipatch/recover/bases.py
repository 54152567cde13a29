# SPDX-License-Identifier: MIT
"""Which words of code are added to, or compared with what was added to? The sources tell them all.

A word that need not be a pointer is understood if Linux has an expression that gives just this
word, of something whose name the kernel has:

- `irq_entries_start + 8 * (vector - 0x20)` (arch/x86/kernel/idt.c) and the same of the two other
  arrays of stubs: with and without what is subtracted folded into the word;
- `__bpf_call_base + insn->imm` (kernel/bpf/core.c);
- `_stext + tp->rel_loc` and `+ 1` (text_poke_batch_finish of arch/x86/kernel/alternative.c), and
  PAGE_ALIGN(_text), which adds a page less one byte (arch/x86/mm/init_32.c): no symbol at the
  start of .text ever moves;
- `&entry->handler + entry->handler == ex_handler_fault` (arch/x86/mm/extable.c, 4.6 to 5.15): a
  compiler may subtract the offset of `handler` from both.

All arrays of code that a number selects an entry of are in this list, or are entered at their
address and multiples of their stride, or lie in the function that computes it. A kernel whose stubs
have a form that is not known is refused before (vmipatch.tables.entry_stubs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vmipatch.image.elf import ElfImage
from vmipatch.recover.tables import STUBS
from vmipatch.tables.table import Role, TableName, Tables

ADDED_TO = ("__bpf_call_base",)
"""Functions to whose addresses numbers are added."""
PAGE = 0x1000
FROM_START = (0, 1, PAGE - 1)
"""Addends of the start of .text."""
HANDLER_AT = 8
"""Offset of `handler` in an entry of __ex_table."""
FIRST_COMPLEMENT = 0x7F
"""A stub that counts down pushes this less its vector (`~vector + 0x80`)."""


@dataclass(frozen=True, slots=True)
class Bases:
    """Words of code that are no pointers to what lies there, by value."""

    named: dict[int, str] = field(hash=False)
    """Those of address operands, and the symbols with which they move."""
    compared: dict[int, str] = field(hash=False)
    """Those of immediate operands likewise."""
    biased: frozenset[int]
    """Those of `named` that are not the address of their symbol: an immediate operand may also be
    a pointer to what lies there."""
    kept: frozenset[int]
    """Those that are made from the start of .text, which does not move."""


def bases_of(
    image: ElfImage,
    tables: Tables,
    address: Callable[[str], int | None],
    stubs: Iterable[str],
) -> Bases:
    """The bases that symbols (`address` by name) and tables tell; `stubs` are the valid arrays."""
    known = frozenset(stubs)
    named: dict[int, str] = {}
    for name in ADDED_TO:
        if (va := address(name)) is not None:
            named[va] = name
    for kind, name in STUBS:
        if name in known and (va := address(name)) is not None:
            stride = kind.layouts[0].entry.itemsize
            named[va] = named[va - stride * first_vector(image, va, stride)] = name
    start_va = image.section_by_name[".text"].va
    kept = frozenset(start_va + more for more in FROM_START)
    biased = frozenset(value for value, name in named.items() if address(name) != value)
    return Bases(named, _compared(tables, address), biased, kept)


def first_vector(image: ElfImage, va: int, stride: int) -> int:
    """The vector of the first stub of an array: what it pushes, or its complement.

    Early stubs may push something else first, and are selected by their number.
    """
    first, second = image.read(va, stride + 2)[1::stride]
    return (FIRST_COMPLEMENT - first) % 256 if (first - second) % 256 == 1 else first


def _compared(tables: Tables, address: Callable[[str], int | None]) -> dict[int, str]:
    table = tables.get(TableName.EX_TABLE)
    if table is None:
        return {}
    words = table.words
    handlers = set(words["target_va"][words["role"] == Role.FUNCTION].tolist())
    names = ("ex_handler_fault", "ex_handler_default", "ex_handler_ext", "ex_handler_uaccess")
    found = ((name, address(name)) for name in names)
    return {va - HANDLER_AT: name for name, va in found if va is not None and va in handlers}
