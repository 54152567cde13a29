# SPDX-License-Identifier: MIT
"""The other end of the serial line, as the machine sees it."""

from __future__ import annotations

from typing import Protocol


class Terminal(Protocol):
    """The other end of the serial line."""

    def send(self, value: int) -> None:
        """A byte from the guest."""

    def poll(self, idle: bool) -> bytes:
        """Bytes for the guest, if there are any; may wait a moment if the guest is idle.

        Raises GuestEnded when the user has had enough.
        """


class Silence:
    """A terminal that keeps what it hears and says nothing."""

    def __init__(self) -> None:
        self.heard = bytearray()

    def send(self, value: int) -> None:
        """Keep the byte."""
        self.heard.append(value)

    def poll(self, idle: bool) -> bytes:
        """Nothing."""
        return b""
