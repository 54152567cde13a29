# SPDX-License-Identifier: MIT
"""What has to wait until the CPU stands still?

A new watch throws all translated code away. While that code runs (a watched instruction is reached
from it) this takes the process down; between two runs, and in the callback of an exception, it does
not.
"""

from __future__ import annotations

from collections.abc import Callable

from vmipatch.emu.processor.cpu import Cpu


class Later:
    """Calls that are made before the next instruction of the guest."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._calls: list[Callable[[], object]] = []

    def __call__(self, call: Callable[[], object]) -> None:
        """From the callback of a watched instruction, which is then reached a second time."""
        self._calls.append(call)
        self._cpu.stop()

    def now(self) -> None:
        """The CPU stands still."""
        calls, self._calls = self._calls, []
        for call in calls:
            call()
