# SPDX-License-Identifier: MIT
"""How does the user see that a long command goes on? Live on a terminal, line by line elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import IO, Any, Final

from vmipatch.verify.parallel import News, Watcher

NS_PER_S: Final = 1_000_000_000
_UP, _CLEAR_BELOW = "\x1b[{}A", "\x1b[J"


class PlainProgress(Watcher):
    """One line when a step begins, one when it ends; no escape codes."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._begun: dict[str, float] = {}

    def started(self, name: str) -> None:
        """A step has begun."""
        self._begun[name] = time.monotonic()
        self._print(f"{name}: begun")

    def finished(self, name: str, result: Any) -> None:
        """A step has its result."""
        self._print(f"{name}: done, {time.monotonic() - self._begun[name]:.1f} s")

    def _print(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class LiveProgress(PlainProgress):
    """A line that changes for each step that runs: virtual time and the console's last line."""

    def __init__(self, out: IO[str]) -> None:
        super().__init__(out)
        self._shown: dict[str, str] = {}
        self._lines = 0

    def started(self, name: str) -> None:
        """A step has begun."""
        self._begun[name] = time.monotonic()
        self._shown[name] = ""
        self._redraw()

    def heard(self, name: str, news: News) -> None:
        """A boot has come so far."""
        printable = "".join(c if c.isprintable() else " " for c in news.line)
        self._shown[name] = f"{news.now_ns / NS_PER_S:8.3f} s  {printable}"
        self._redraw()

    def finished(self, name: str, result: Any) -> None:
        """The step's line stays where it is, and moves up out of the changing part."""
        del self._shown[name]
        self._redraw(f"{name}: done, {time.monotonic() - self._begun[name]:.1f} s\n")

    def _redraw(self, settled: str = "") -> None:
        width = shutil.get_terminal_size().columns - 1
        up = _UP.format(self._lines) if self._lines else ""
        lines = [f"{name:32.32}{text}"[:width] for name, text in self._shown.items()]
        block = "".join(f"{line}\n" for line in lines)
        self._out.write(f"{up}\r{_CLEAR_BELOW}{settled}{block}")
        self._out.flush()
        self._lines = len(lines)


def progress_on(out: IO[str]) -> Watcher:
    """The kind of progress that fits where it goes."""
    return LiveProgress(out) if out.isatty() else PlainProgress(out)
