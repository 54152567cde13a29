# SPDX-License-Identifier: MIT
"""Can this kernel make memory non-executable? Only with page tables of three levels (PAE).

The page tables that a kernel boots with (arch/x86/kernel/head_32.S since 2.6.38) have a top,
`initial_page_table`, and in a kernel for PAE alone a middle level, `initial_pg_pmd`.
"""

from __future__ import annotations

from vmipatch.tables.source import SymbolsSource

TOP, MIDDLE = "initial_page_table", "initial_pg_pmd"


def never_forbids_execution(symbols: SymbolsSource) -> bool:
    """Whether the kernel is known to have page tables of two levels."""
    return symbols.address(TOP) is not None and symbols.address(MIDDLE) is None
