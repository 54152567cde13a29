# SPDX-License-Identifier: MIT
"""Which code may run on the page tables of user space?

With page-table isolation these map the entry code, [__entry_text_start, __entry_text_end), and
nothing else of the kernel's text (pti_clone_entry_text() in arch/x86/mm/pti.c; the bounds are those
of ENTRY_TEXT in include/asm-generic/vmlinux.lds.h). Where large pages map the text, the whole of
one is cloned, and more of it is there by accident.
"""

from __future__ import annotations

from vmipatch.tables.source import SymbolsSource

BOUNDS = ("__entry_text_start", "__entry_text_end")


def entry_text(symbols: SymbolsSource) -> tuple[int, int]:
    """Begin and end of the entry code as linked; (0, 0) where a kernel has no such symbols."""
    start_va, end_va = (symbols.address(name) for name in BOUNDS)
    return (0, 0) if start_va is None or end_va is None else (start_va, end_va)
