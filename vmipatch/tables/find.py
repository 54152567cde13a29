# SPDX-License-Identifier: MIT
"""Which of the known tables does this kernel have."""

from __future__ import annotations

from vmipatch.image.elf import ElfImage
from vmipatch.tables.alternatives import ALTERNATIVES
from vmipatch.tables.ex_table import EX_TABLE
from vmipatch.tables.kallsyms import KALLSYMS, KALLSYMS_BASE
from vmipatch.tables.mcount import MCOUNT
from vmipatch.tables.table import Tables
from vmipatch.tables.view import ImageView

KINDS = (
    EX_TABLE,
    KALLSYMS,
    KALLSYMS_BASE,
    MCOUNT,
    ALTERNATIVES,
)


def find_all(image: ElfImage) -> Tables:
    """Every table that `image` has, complete and valid.

    A table that the kernel lacks, or that is empty, is left out. Raises MalformedTable, naming
    table and entry, if one is there and fails its validation.
    """
    view = ImageView.of(image)
    found = (kind.parse(view) for kind in KINDS)
    return Tables(tuple(table for table in found if table is not None))
