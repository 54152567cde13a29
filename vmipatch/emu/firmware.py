# SPDX-License-Identifier: MIT
"""What does a BIOS leave in memory for an operating system that wants several processors?"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.devices.acpi_tables import acpi_tables
from vmipatch.emu.devices.local_apic import BASE_PA as APIC_PA
from vmipatch.emu.devices.mp_table import mp_table
from vmipatch.emu.memory_map import BIOS_PA
from vmipatch.emu.processor.cpuid import FEATURES, SIGNATURE, Feature
from vmipatch.emu.processor.memory import PAGE_LEN, Access, GuestMemory

_ACPI_PA: Final = BIOS_PA + PAGE_LEN


def plug_firmware(memory: GuestMemory, cpus: int) -> None:
    """Put an MP table and ACPI tables for so many processors into a machine that is being built."""
    features = FEATURES | Feature.APIC
    table = mp_table(cpus, base_pa=BIOS_PA, apic_pa=APIC_PA, signature=SIGNATURE, features=features)
    memory.plug(BIOS_PA, table.ljust(PAGE_LEN, b"\0"), Access.READ_ONLY)
    tables = acpi_tables(cpus, base_pa=_ACPI_PA, apic_pa=APIC_PA)
    memory.plug(_ACPI_PA, tables, Access.READ_WRITE)
