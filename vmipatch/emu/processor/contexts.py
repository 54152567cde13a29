# SPDX-License-Identifier: MIT
"""How does one instance of Unicorn become another processor? Its registers change places.

Several processors are as many contexts of one instance: translated code belongs to physical
addresses, so that it serves all of them, and what one writes over, no other executes stale. A
context is the beginning of CPUX86State up to `end_reset_fields`: registers, segments with their
hidden parts, control registers, model-specific ones, FPU, SSE, intercepts. Outside of it are the
interrupt requests (take promises back first) and the TLB (forgotten at each load).

A change is possible between two runs only: in a callback the library holds registers of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from vmipatch.emu.processor.state import StateField
from vmipatch.errors import EnvironmentProblem

UC_CONTEXT_HEADER_LEN: Final = 40
"""Bytes of a uc_context before the registers."""
FIRST_NEEDED: Final = StateField.INTERCEPTS + 16
"""Where the last field that we know of ends."""


class Contexts:
    """Takes the processor out of the engine, and puts one in."""

    def __init__(self, state_va: int, uc_context_len: int, flush_tlb: Callable[[], None]) -> None:
        """`state_va`: host address of CPUX86State; `uc_context_len`: as the library tells it.

        Raises EnvironmentProblem if a context cannot hold what the emulator knows of.
        """
        self._state_va = state_va
        self._flush_tlb = flush_tlb
        self.length = uc_context_len - UC_CONTEXT_HEADER_LEN
        """Bytes of a context."""
        if not FIRST_NEEDED <= self.length <= 4 * FIRST_NEEDED:
            raise EnvironmentProblem(
                f"this build of Unicorn has contexts of {self.length} bytes",
                hint="install the official wheel: pip install unicorn==2.1.4",
            )

    def save(self) -> bytes:
        """The processor that is in the engine; it stays there."""
        return ctypes.string_at(self._state_va, self.length)

    def load(self, context: bytes) -> None:
        """Let the engine go on as another processor. Raises ValueError for another length."""
        if len(context) != self.length:
            raise ValueError(f"a context of {len(context)} bytes, not {self.length}")
        ctypes.memmove(self._state_va, context, self.length)
        self._flush_tlb()
