# SPDX-License-Identifier: MIT
"""Which properties of a machine can be chosen?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vmipatch.emu.schedule import DEFAULT_TURN_LEN

DEFAULT_RAM_LEN: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """The options of a machine."""

    ram_len: int = DEFAULT_RAM_LEN
    """Bytes of memory."""
    pae: bool = True
    """Whether the CPU has physical addresses of 36 bits."""
    apic: bool = False
    """Whether CPUID shows the local APIC."""
    limit_ns: int | None = None
    """Virtual time after which the machine is switched off."""
    timeout_s: float | None = None
    """Real time after which it is: the only use of the host's clock, and the only end that another
    run need not come to."""
    cpus: int = 1
    """Processors; with more than one, the machine shows its APICs and has ACPI."""
    turn_len: int = DEFAULT_TURN_LEN
    """Bytes of code after which another processor runs."""
    display: bool = False
    """Whether there are a text display and a keyboard controller, which kernels other than Linux
    take for granted; Linux finds what there is."""
    disks: tuple[bytes, ...] = field(default=(), repr=False)
    """The contents of up to two ATA disks."""
    timer_shift: int = 0
    """Thousandths of its period by which the timer ticks later."""
    kernel_drag: int = 0
    """Thousandths of a byte, less than 1000, by which a block of code at CPL 0 takes longer."""

    @property
    def shows_apic(self) -> bool:
        """Whether CPUID shows the local APIC."""
        return self.apic or self.cpus > 1
