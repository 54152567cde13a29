# SPDX-License-Identifier: MIT
"""What does a CPU call while it runs, and why does it come back?"""

from __future__ import annotations

import enum
from typing import Protocol


class Exit(enum.Enum):
    """Why `Cpu.run` came back."""

    SLICE = "the granted slice is used up"
    HALT = "hlt at CPL 0"
    STOP = "a callback asked for it"
    WRITE_PROTECTED = "the guest wrote to a read-only page; EIP is at the instruction"
    NO_CODE = "the guest jumped to where no memory is"
    NO_MEMORY = "the guest used an address that is not even a hole"


class Callbacks(Protocol):
    """Functions that the CPU calls. An exception in one of them ends `run` and leaves it again."""

    def on_interrupt(self, number: int) -> None:
        """An exception, a software interrupt, or VMEXIT plus an SvmExit."""

    def on_invalid(self) -> None:
        """An undefined instruction, EIP at it."""

    def on_in(self, port: int, size: int) -> int:
        """`in` of `size` bytes, whatever CPL and IOPL are."""

    def on_out(self, port: int, size: int, value: int) -> None:
        """`out` of `size` bytes, whatever CPL and IOPL are."""

    def on_cpuid(self) -> None:
        """`cpuid`: fill the registers."""

    def on_rdtsc(self) -> None:
        """`rdtsc`: fill the registers."""

    def on_fast_call(self) -> None:
        """`sysenter` or `syscall`, which the CPU that is presented does not have."""

    def on_hole_read(self, pa: int, size: int) -> int:
        """A read where no memory is."""

    def on_hole_write(self, pa: int, size: int, value: int) -> None:
        """A write where no memory is."""
