# SPDX-License-Identifier: MIT
"""What do hypervisor and guest tell each other? The words of the page they share.

A guest that is not paravirtual has the same page outside of its reach, so that the rest of the
hypervisor need not ask which of the two it is. Once shared, every word may hold anything: nothing
read from it is used but a flag, an address for a report to the guest itself, and a clock's steps.
"""

from __future__ import annotations

import ctypes
from typing import Final

from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.registers import RegisterFile
from vmipatch.vmi.shared import Shared

PAGE_LEN: Final = 4096
_IF: Final = int(Flag.IF)
_VIRTUAL_IF, _PENDING = Shared.VIRTUAL_IF >> 2, Shared.PENDING >> 2
_CR0, _CR2, _CR3, _CR4 = (field >> 2 for field in (Shared.CR0, Shared.CR2, Shared.CR3, Shared.CR4))
_MAX_STEPS_NS: Final = 10_000_000_000
"""More than that between two looks is not a clock that loops wait for, but a guest that plays."""


class SharedPage:
    """A page by the names of its words."""

    def __init__(self, octets: memoryview | None = None) -> None:
        """`octets`: the page in guest memory; without, a page that no guest sees."""
        self.octets = memoryview(bytearray(PAGE_LEN)) if octets is None else octets
        self.va = ctypes.addressof(ctypes.c_char.from_buffer(self.octets))
        """Host address of the page."""
        self._words = self.octets.cast("I")
        self._steps = self.octets[Shared.TSC_STEPS : Shared.TSC_STEPS + 8].cast("Q")
        self._steps_ns = 0

    @property
    def interrupts_enabled(self) -> bool:
        """Virtual IF."""
        return bool(self._words[_VIRTUAL_IF] & _IF)

    @interrupts_enabled.setter
    def interrupts_enabled(self, value: bool) -> None:
        self._words[_VIRTUAL_IF] = _IF if value else 0

    @property
    def pending(self) -> bool:
        """Whether an event waits for virtual IF; only the hypervisor's word counts."""
        return bool(self._words[_PENDING])

    @pending.setter
    def pending(self, value: bool) -> None:
        self._words[_PENDING] = value

    @property
    def iret_site_va(self) -> int:
        """The site whose IRET the ROM is executing, if it is."""
        return self._words[Shared.IRET_SITE >> 2]

    def steps_ns(self) -> int:
        """Time that the guest has added to its clock by reading it: never less than before."""
        steps_ns = self._steps[0]
        if 0 <= steps_ns - self._steps_ns <= _MAX_STEPS_NS:
            self._steps_ns = steps_ns
        return self._steps_ns

    def show(self, registers: RegisterFile, task_selector: int) -> None:
        """Let the guest read its control registers and tables without an exit."""
        words = self._words
        words[_CR0], words[_CR2] = registers.cr0, registers.cr2
        words[_CR3], words[_CR4] = registers.cr3, registers.cr4
        for field, (base, limit) in (
            (Shared.GDTR, registers.gdtr),
            (Shared.IDTR, registers.idtr),
        ):
            image = (limit & 0xFFFF).to_bytes(2, "little") + base.to_bytes(4, "little")
            self.octets[field : field + len(image)] = image
        words[Shared.LDTR >> 2] = registers.ldtr.selector
        words[Shared.TR >> 2] = task_selector

    def show_page_tables(self, cr3: int) -> None:
        """CR3 alone: it changes with each address space."""
        self._words[_CR3] = cr3

    def show_page_fault(self, va: int) -> None:
        """CR2 alone: it changes with each page fault."""
        self._words[_CR2] = va
