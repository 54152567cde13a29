# SPDX-License-Identifier: MIT
"""How far is a long step? A bar on one line of a terminal, which goes on while the step computes.

A step that can count what it has done fills the bar; of any other, a mark moves along it, and the
seconds say that it lives. Every line is as long as the terminal is wide, at most.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import IO, Final

USUAL_SIZE: Final = os.terminal_size((80, 24))
ERASE: Final = "\r\x1b[K"
"""To the beginning of the line, and nothing is left of it."""
EVERY_S: Final = 0.25
_WIDEST: Final = 30
"""Characters of the longest bar."""
_NARROWEST: Final = 8
"""Of the shortest: where there is less room, the words alone are shown."""
_MARK: Final = "###"


def size_of(out: IO[str]) -> os.terminal_size:
    """Columns and lines of the terminal, now: it may be resized."""
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return USUAL_SIZE
    return size if size.columns and size.lines else USUAL_SIZE


def bar_line(words: str, done: int, total: int, seconds: float, columns: int) -> str:
    """`words`, a bar, and the time: `vmlinux: packing [####------] 3 of 9, 12 s`.

    `total` is 0 if it is not known. The line has fewer than `columns` characters: the last one
    stays free, for some terminals go to the next line after it.
    """
    told = f"{done} of {total}, {seconds:.0f} s" if total else f"{seconds:.0f} s"
    room = columns - 1
    length = min(_WIDEST, room - len(words) - len(told) - 4)
    if length < _NARROWEST:
        return f"{words[: max(0, room - len(told) - 1)]} {told}"[:room]
    if total:
        filled = "#" * (length * min(done, total) // total)
        return f"{words} [{filled:-<{length}}] {told}"
    at = round(seconds / EVERY_S) % (length - len(_MARK) + 1)
    return f"{words} [{'-' * at}{_MARK:-<{length - at}}] {told}"


@contextlib.contextmanager
def ticking(redraw: Callable[[], None]) -> Iterator[None]:
    """`redraw` is called four times a second, by a thread, until the context ends."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(EVERY_S):
            redraw()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def put(out: IO[str], text: str) -> None:
    """Write it; where the terminal is gone, the step goes on all the same."""
    with contextlib.suppress(OSError):
        out.write(text)
        out.flush()
