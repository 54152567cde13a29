# SPDX-License-Identifier: MIT
"""How does the user talk to a guest? Standard input and output are the end of its serial line.

What the guest writes goes to a terminal as it is, and escaped to anywhere else (`guest_text`).
"""

from __future__ import annotations

import os
import select
import sys
from types import TracebackType
from typing import Any

from vmipatch.cli.guest_text import GuestText
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.files.outputs import STDOUT, reported

ESCAPE = 0x01
"""Ctrl-A; twice for one of them."""
QUIT = ord("x")
IDLE_WAIT_S = 0.01
"""How long to wait for a key while the guest sleeps: a tick of its timer."""
_CHUNK_LEN = 1024


class HostTerminal:
    """Standard input, raw if it is a terminal, and output."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        stream = sys.stderr if to_stderr else sys.stdout
        self._out = stream.buffer
        self._text = None if stream.isatty() else GuestText()
        self._name = "standard error" if to_stderr else STDOUT
        self._input = _standard_input()
        self._is_tty = self._input is not None and os.isatty(self._input)
        self._saved: list[Any] | None = None
        self._escaped = False
        self._unsent = bytearray()

    def __enter__(self) -> HostTerminal:
        if self._is_tty and self._input is not None:
            import termios
            import tty

            self._saved = termios.tcgetattr(self._input)
            tty.setraw(self._input, termios.TCSADRAIN)  # what was typed ahead is kept
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush(final=True)
        if self._saved is not None and self._input is not None:
            import termios

            termios.tcsetattr(self._input, termios.TCSADRAIN, self._saved)

    @property
    def is_seen(self) -> bool:
        """Whether the guest's output goes to a terminal, and shows by itself how far it is."""
        return self._text is None

    def send(self, value: int) -> None:
        """A byte from the guest; what has been collected goes out line by line."""
        self._unsent.append(value)
        if value == 0x0A:
            self._flush()

    def poll(self, idle: bool) -> bytes:
        """Keys for the guest. While it is idle, a terminal is given a moment to produce some."""
        if self._unsent:
            self._flush()
        if self._input is None:
            return b""
        wait_s = IDLE_WAIT_S if idle and self._is_tty else 0
        if not select.select([self._input], [], [], wait_s)[0]:
            return b""
        data = os.read(self._input, _CHUNK_LEN)
        if not data:
            self._input = None
        return self._without_escapes(data) if self._is_tty else data

    def _flush(self, *, final: bool = False) -> None:
        unsent, self._unsent = bytes(self._unsent), bytearray()
        if self._text is not None:
            unsent = self._text.add(unsent, final=final)
        with reported(self._name):
            self._out.write(unsent)
            self._out.flush()

    def _without_escapes(self, data: bytes) -> bytes:
        """`data` for the guest. Raises GuestEnded after Ctrl-A x."""
        passed = bytearray()
        for value in data:
            if self._escaped:
                self._escaped = False
                if value == QUIT:
                    raise GuestEnded(Ending.QUIT)
                passed.append(value)
            elif value == ESCAPE:
                self._escaped = True
            else:
                passed.append(value)
        return bytes(passed)


def _standard_input() -> int | None:
    """The file descriptor, or None without one (closed, or replaced by an object)."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return None
