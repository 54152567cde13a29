# SPDX-License-Identifier: MIT
"""What does a person see who looks at a terminal? The few control codes that vmipatch writes."""

from __future__ import annotations

import re
from typing import Final

_PART: Final = re.compile(r"\x1b\[(\d*)([A-Za-z])|(\r\n|\r|\n)|([^\x1b\r\n]+)")


class Screen:
    """A terminal of so many columns and lines, with what has scrolled out of it above.

    Colours are left out.
    """

    def __init__(self, columns: int, lines: int) -> None:
        self._columns, self._lines = columns, lines
        self._rows = [""]
        self._row = self._column = 0
        self._continued: set[int] = set()

    def feed(self, text: str) -> None:
        """Show `text`. Raises ValueError for a control code that a terminal need not know."""
        at = 0
        for found in _PART.finditer(text):
            if found.start() != at:
                break
            at = found.end()
            count, code, line_end, words = found.groups()
            if code is not None:
                self._control(code, int(count or 1))
            elif line_end is not None:
                self._end_line(line_end)
            else:
                self._write(words)
        if at != len(text):
            raise ValueError(f"not understood: {text[at : at + 20]!r}")

    @property
    def broken(self) -> int:
        """How many rows are longer than the terminal is wide, and go on in the next."""
        return len(self._continued)

    @property
    def text(self) -> str:
        """All lines, without blanks at their ends; broken ones as they were written."""
        parts = [
            row if number in self._continued else f"{row.rstrip()}\n"
            for number, row in enumerate(self._rows)
        ]
        return "".join(parts).rstrip("\n")

    def _control(self, code: str, count: int) -> None:
        first = max(0, len(self._rows) - self._lines)
        if code == "A":
            self._row = max(first, self._row - count)
        elif code == "K":
            self._rows[self._row] = self._rows[self._row][: self._column]
        elif code == "J":
            del self._rows[self._row + 1 :]
            self._continued = {row for row in self._continued if row < self._row}
            self._rows[self._row] = self._rows[self._row][: self._column]
        elif code != "m":
            raise ValueError(f"control code {code}")

    def _end_line(self, end: str) -> None:
        self._column = 0
        if "\n" in end:
            self._row += 1
            if self._row == len(self._rows):
                self._rows.append("")

    def _write(self, words: str) -> None:
        while words:
            room = self._columns - self._column
            if room == 0:
                self._continued.add(self._row)
                self._end_line("\n")
                continue
            part, words = words[:room], words[room:]
            old = self._rows[self._row].ljust(self._column)
            end = self._column + len(part)
            self._rows[self._row] = old[: self._column] + part + old[end:]
            self._column = end
