# SPDX-License-Identifier: MIT
"""Where do the tables say how long a trap of BUG() or WARN() is, as its bytes do not?"""

from __future__ import annotations

import numpy as np

from vmipatch.isa.decode import UD0
from vmipatch.tables.inline_bugs import INLINE_BUG_LEN, UD2_LEN
from vmipatch.tables.source import ImageSource
from vmipatch.tables.table import Role, TableName, Tables


def two_byte_traps(image: ImageSource, tables: Tables) -> list[int]:
    """Start and end of each `0f ff` that the bug table names: it has no ModRM byte there."""
    bugs = tables.places(TableName.BUG_TABLE, Role.INSTRUCTION)["va"].tolist()
    short = [va for va in bugs if image.read(va, len(UD0)) == UD0]
    return [edge for va in short for edge in (va, va + len(UD0))]


def inline_data(tables: Tables) -> list[tuple[int, int]]:
    """Ranges of line and file name after a ud2, which are data among the code."""
    bugs = tables.places(TableName.INLINE_BUGS)["va"].astype(np.int64)
    return [(va + UD2_LEN, va + INLINE_BUG_LEN) for va in bugs.tolist()]
