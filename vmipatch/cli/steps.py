# SPDX-License-Identifier: MIT
"""How does the user see which step of a command is under way? On a terminal; with -v, everywhere.

On a terminal one line names the step, with a bar, and is erased when the command has its result.
With -v each step leaves a line with its time. In a pipe, without -v, nothing is said.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import IO

from vmipatch.cli.bar import ERASE, bar_line, put, size_of, ticking
from vmipatch.cli.console import QUIET, Console
from vmipatch.errors import escaped
from vmipatch.steps import Tell, listening


@contextlib.contextmanager
def steps_shown(console: Console, subject: str, out: IO[str] | None = None) -> Iterator[None]:
    """Show the steps of the body, which works on the file `subject`; `out` is standard error."""
    out = out or sys.stderr
    shown = _Line(out) if console.verbosity > QUIET and out.isatty() else None
    is_within = False

    @contextlib.contextmanager
    def show(name: str) -> Iterator[Tell]:
        nonlocal is_within
        if is_within:  # a part of the step that is shown
            yield _not_shown
            return
        begun, is_within = time.monotonic(), True
        words = f"{escaped(subject)}: {name}"
        with contextlib.nullcontext(_not_shown) if shown is None else shown.of(words) as tell:
            yield tell
        is_within = False
        console.detail(f"{words}: {time.monotonic() - begun:.1f} s")

    with listening(show):
        yield


def _not_shown(done: int, total: int) -> None:
    """In a pipe."""


class _Line:
    """The line of a terminal that shows a step."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    @contextlib.contextmanager
    def of(self, words: str) -> Iterator[Tell]:
        """Show `words` and a bar until the context ends."""
        begun, counts = time.monotonic(), (0, 0)

        def redraw() -> None:
            columns = size_of(self._out).columns
            line = bar_line(words, *counts, time.monotonic() - begun, columns)
            put(self._out, ERASE + line)

        def tell(done: int, total: int) -> None:
            nonlocal counts
            counts = done, total

        redraw()
        try:
            with ticking(redraw):
                yield tell
        finally:
            put(self._out, ERASE)
