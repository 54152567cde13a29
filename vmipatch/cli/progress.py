# SPDX-License-Identifier: MIT
"""How does the user see that a long command goes on? Live on a terminal, line by line elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, Any, Final

from vmipatch.cli.bar import bar_line, put, size_of, ticking
from vmipatch.verify.parallel import News, Watcher

NS_PER_S: Final = 1_000_000_000
_UP, _CLEAR_BELOW = "\x1b[{}A", "\x1b[J"
_NAME_LEN: Final = 32


class PlainProgress(Watcher):
    """One line when a step begins, one when it ends; no escape codes."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._begun: dict[str, float] = {}

    def shown(self) -> AbstractContextManager[None]:
        """For as long as steps run."""
        return contextlib.nullcontext()

    def started(self, name: str) -> None:
        """A step has begun."""
        self._begun[name] = time.monotonic()
        put(self._out, f"{name}: begun\n")

    def finished(self, name: str, result: Any) -> None:
        """A step has its result."""
        put(self._out, f"{self._ended(name)}\n")

    def _ended(self, name: str) -> str:
        return f"{name}: done, {time.monotonic() - self._begun[name]:.1f} s"


class LiveProgress(PlainProgress):
    """A bar for all steps, and a line for each that runs: how far it is, as it says itself."""

    def __init__(self, out: IO[str]) -> None:
        super().__init__(out)
        self._shown: dict[str, str] = {}
        self._lines = 0
        self._counts = [0, 0]
        self._first = time.monotonic()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Seconds go on while steps compute; at the end nothing but settled lines is left."""
        try:
            with ticking(self._redraw):
                yield
        finally:
            self._shown.clear()
            self._counts = [0, 0]
            self._redraw()

    def planned(self, count: int) -> None:
        """So many steps more will be done."""
        self._counts[1] += count

    def started(self, name: str) -> None:
        """A step has begun."""
        self._begun[name] = time.monotonic()
        self._shown[name] = ""
        self._redraw()

    def heard(self, name: str, news: News) -> None:
        """A boot has come so far."""
        printable = "".join(c if c.isprintable() else " " for c in news.line)
        virtual = f"{news.now_ns / NS_PER_S:8.3f} s  " if news.now_ns else " " * 12
        self._shown[name] = virtual + printable
        self._redraw()

    def finished(self, name: str, result: Any) -> None:
        """The step's line stays where it is, and moves up out of the changing part."""
        del self._shown[name]
        self._counts[0] += 1
        self._redraw(f"{self._ended(name)}\n")

    def _redraw(self, settled: str = "") -> None:
        with self._lock:
            columns, lines = size_of(self._out)
            block = [line[: columns - 1] for line in self._block(columns, lines - 2)]
            up = _UP.format(self._lines) if self._lines else ""
            text = "".join(f"{line}\n" for line in block)
            put(self._out, f"{up}\r{_CLEAR_BELOW}{settled}{text}")
            self._lines = len(block)

    def _block(self, columns: int, most: int) -> Iterator[str]:
        """The changing part: `most` lines, or the cursor could not get back to the first."""
        steps = [f"{name:{_NAME_LEN}.{_NAME_LEN}}{text}" for name, text in self._shown.items()]
        yield from steps[: most - 2] if len(steps) >= most else steps
        if len(steps) >= most:
            yield f"and {len(steps) - most + 2} more"
        if any(self._counts):
            seconds = time.monotonic() - self._first
            yield bar_line("steps", self._counts[0], self._counts[1], seconds, columns)


def progress_on(out: IO[str]) -> PlainProgress:
    """The kind of progress that fits where it goes."""
    return LiveProgress(out) if out.isatty() else PlainProgress(out)
