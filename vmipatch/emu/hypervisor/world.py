# SPDX-License-Identifier: MIT
"""What do all processors of a paravirtual guest have in common? ROM, fallbacks, and its own code.

The boot processor calls VMI_Init once for all; the others join when they switch paging on, or begin
as SetInitialAPState has told.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.hypervisor.audit import AuditLog
from vmipatch.emu.hypervisor.initial_state import InitialState
from vmipatch.emu.hypervisor.own_code import OwnCode
from vmipatch.emu.hypervisor.rom_image import GuestRom
from vmipatch.emu.hypervisor.shared_page import PAGE_LEN
from vmipatch.emu.processor.memory import GuestMemory
from vmipatch.vmi.shared import SHARED_PA, Shared

_STEPS: Final = slice(SHARED_PA + Shared.TSC_STEPS, SHARED_PA + Shared.TSC_STEPS + 8)
_PAGE: Final = slice(SHARED_PA, SHARED_PA + PAGE_LEN)


class World:
    """One guest with its ROM."""

    def __init__(self, rom: GuestRom) -> None:
        self.rom = rom
        self.audit = AuditLog()
        self.is_entered = False
        """Whether VMI_Init has been called, and paging was not switched off since."""
        self.fallbacks: dict[int, bytes] = {}
        """First bytes of the instructions that a HLT stands for, by linear address."""
        self.own_code: OwnCode | None = None
        """Thunks and runtime in the guest, which mean what the hardware does, as the ROM does."""
        self.states: dict[int, InitialState] = {}
        """How processors are to begin, by number."""

    def leave(self) -> None:
        """The guest has no use for the ROM any more."""
        self.is_entered = False
        self.fallbacks = {}
        self.states = {}
        if self.own_code is not None:
            self.own_code.forget()


def take_page(memory: GuestMemory) -> bytes:
    """The content of the shared page, to be kept for a processor that leaves the engine."""
    return bytes(memory.octets[_PAGE])


def put_page(memory: GuestMemory, content: bytes) -> None:
    """Show a processor its shared page; what RDTSC has added to the clock stays, as it is one."""
    steps = bytes(memory.octets[_STEPS])
    memory.octets[_PAGE] = content
    memory.octets[_STEPS] = steps
