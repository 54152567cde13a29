# SPDX-License-Identifier: MIT
"""Which routines do Linux's sources copy elsewhere, or tie to firmware, without a table of it?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CopiedRoutine:
    """A routine whose source computes with its own length; nothing in the file says so."""

    start_symbol: str
    end_symbol: str | None
    """The symbol after it; None: its own size, or up to the next function."""
    source: str
    calls_firmware: bool = False
    """It is not copied, but calls firmware in ways that firmware prescribes."""


_KEXEC = "arch/x86/kernel/relocate_kernel_32.S: kexec copies it with all that follows there"

COPIED_ROUTINES = (
    CopiedRoutine("relocate_kernel", None, _KEXEC),
    CopiedRoutine("identity_mapped", None, _KEXEC),
    CopiedRoutine("virtual_mapped", None, _KEXEC),
    CopiedRoutine("swap_pages", None, _KEXEC),
    CopiedRoutine("core_restore_code", None, "arch/x86/power/hibernate_asm_32.S"),
    CopiedRoutine("restore_image", None, "arch/x86/power/hibernate_asm_32.S"),
    CopiedRoutine("wakeup_pmode_return", None, "arch/x86/kernel/acpi/wakeup_32.S"),
    CopiedRoutine("bios32_service", None, "arch/x86/pci/pcbios.c", calls_firmware=True),
    CopiedRoutine(
        "pnp_bios_callfunc", None, "drivers/pnp/pnpbios/bioscalls.c", calls_firmware=True
    ),
    CopiedRoutine(
        "optprobe_template_entry", "optprobe_template_end", "arch/x86/kernel/kprobes/opt.c"
    ),
)
