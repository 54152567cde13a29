# SPDX-License-Identifier: MIT
"""Where does Unicorn 2.1.4 keep its CPU, beyond what its API shows?

An event cannot be delivered, and a privilege level not entered, with the public API alone: CPL,
error codes and the record of the last exception have no register number. They are fields of QEMU's
CPUX86State (target/i386/cpu.h of QEMU 5.0, which Unicorn 2 forked), at the offsets listed here for
the official x86-64 build. `locate` plants values through the API and looks whether they arrive;
whether the fields after them are where this list says is tried out by `calibration`.
"""

from __future__ import annotations

import ctypes
import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vmipatch.errors import EnvironmentProblem


class StateField(enum.IntEnum):
    """Byte offsets in CPUX86State; 32 bits each unless noted."""

    REGS = 0x00  # 8 bytes each, in the order of their encoding
    EIP = 0x80
    EFLAGS = 0x88  # without the flags that are kept lazily
    CC_SRC = 0x98  # 64 bits
    CC_OP = 0xA8
    DF = 0xAC  # 1 or -1
    HFLAGS = 0xB0
    HFLAGS2 = 0xB4
    SEGMENTS = 0xB8  # 24 bytes each: selector, base (64 bits at 8), limit, attributes
    LDT = 0x148
    TR = 0x160
    GDT = 0x178
    IDT = 0x190
    CR = 0x1A8  # 8 bytes each
    ERROR_CODE = 0x1508
    IS_SOFTWARE = 0x150C
    DR = 0x1518  # 8 bytes each
    OLD_EXCEPTION = 0x1578
    VMCB = 0x1580  # 64 bits, physical
    INTERCEPTS = 0x1590  # 64 bits


INTERRUPT_REQUEST: Final = 0x1C
"""Byte offset in CPUState, the structure in front of CPUX86State."""

_CPU_POINTER_OFF = 0x1B8
"""In uc_struct, which a handle points to: the pointer to CPUState."""
STATE_OFF: Final = 0x8A50
"""From CPUState to CPUX86State."""
_STATE_WORDS = 0x600
_CPU_WORDS = 16
_PLANTED = tuple(0x5A17C0DE + i * 0x01010101 for i in range(8))


@dataclass(frozen=True, slots=True)
class StateView:
    """The two structures as arrays of u32; they live as long as the Unicorn instance."""

    words: memoryview
    """CPUX86State."""
    cpu_words: memoryview
    """The beginning of CPUState."""


def locate(handle: int, write_registers: Callable[[tuple[int, ...]], None]) -> StateView:
    """Find the state of the Unicorn instance at `handle`.

    `write_registers` sets the eight general registers through the public API.
    Raises EnvironmentProblem if the values do not arrive where they should.
    """
    write_registers(_PLANTED)
    cpu_va = int.from_bytes(read_own_memory(handle + _CPU_POINTER_OFF, 8), "little")
    state_va = cpu_va + STATE_OFF
    if read_own_memory(state_va, len(_pattern())) != _pattern():
        raise EnvironmentProblem(
            "this build of Unicorn keeps its CPU in an unknown form",
            hint="install the official wheel: pip install unicorn==2.1.4",
        )
    write_registers((0,) * 8)
    return StateView(_words(state_va, _STATE_WORDS), _words(cpu_va, _CPU_WORDS))


def _pattern() -> bytes:
    return struct.pack("<8Q", *_PLANTED)


def _words(va: int, count: int) -> memoryview:
    array = (ctypes.c_uint32 * count).from_address(va)
    return memoryview(array).cast("B").cast("I")


def read_own_memory(va: int, length: int) -> bytes:
    """Bytes of this process, as many as are mapped: unlike a pointer, the file cannot crash."""
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(va)
            return memory.read(length)
    except (OSError, ValueError, OverflowError):
        return b""
