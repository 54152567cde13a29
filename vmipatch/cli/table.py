# SPDX-License-Identifier: MIT
"""How does a table look on a terminal, or in a pipe? Columns as wide as they need, or as there is.

In a pipe each row is one line, so that grep and awk read it. On a terminal that is too narrow the
widest column of text is wrapped.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from vmipatch.errors import escaped

GAP: Final = "  "
NARROWEST: Final = 16
"""Characters below which no column of text is wrapped: the terminal wraps the line then."""


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], columns: int | None = None
) -> str:
    """Columns aligned by width, numbers to the right; `columns` is the width there is.

    None: that of the terminal on standard output, without limit if it is not one.
    """
    cells = [[escaped(str(cell)) for cell in row] for row in rows]
    contents = [[row[i] for row in cells] for i in range(len(header))]
    numeric = [all(cell.isdigit() for cell in column) for column in contents]
    widths = [max(map(len, [name, *column])) for name, column in zip(header, contents, strict=True)]
    least = [_least(name, column) for name, column in zip(header, contents, strict=True)]
    limit = _columns() if columns is None else columns
    if limit is not None:
        _narrow(widths, least, limit)

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return GAP.join(parts).rstrip()

    def lines(row: Sequence[str]) -> list[str]:
        wrapped = [_wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        return [line(part) for part in zip_longest(*wrapped, fillvalue="")]

    body = [text for row in cells for text in lines(row)]
    return "\n".join([*lines(header), line(["-" * width for width in widths]), *body])


def _columns() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _least(name: str, column: Sequence[str]) -> int:
    """Characters that a column needs: numbers stay whole, its name breaks at spaces and hyphens."""
    pieces = [len(piece) for piece in name.replace("-", "- ").split()]
    longest = max(map(len, column), default=0)
    whole = all(cell.isdigit() for cell in column)
    return max([*pieces, longest if whole else min(longest, NARROWEST)])


def _narrow(widths: list[int], least: Sequence[int], limit: int) -> None:
    """Take what is too much from the widest columns, in place."""
    while sum(widths) + len(GAP) * (len(widths) - 1) > limit:
        wide = [i for i in range(len(widths)) if widths[i] > least[i]]
        if not wide:
            return
        widths[max(wide, key=lambda i: widths[i])] -= 1


def _wrap(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width) or [""]
