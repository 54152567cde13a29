# SPDX-License-Identifier: MIT
"""Which hardware does the BIOS tell of by ACPI? Processors, APICs, and how to switch the PC off.

Source: ACPI Specification 1.0b, 5.2 (tables), 7.4.1 (system states) and 16.2 (AML); revision 1 of
every table, which every Linux reads. There is no embedded controller, no system management mode
(SMI_CMD is 0: the machine is in ACPI mode from the beginning) and no fixed button.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Final

from vmipatch.emu.devices.checksum import with_checksum
from vmipatch.emu.devices.io_apic import IO_APIC_PA, TIMER_PIN
from vmipatch.emu.devices.power import (
    PM1_CONTROL_LEN,
    PM1_CONTROL_PORT,
    PM1_EVENT_LEN,
    PM1_EVENT_PORT,
    SOFT_OFF,
    TIMER_LEN,
    TIMER_PORT,
)

SCI_LINE: Final = 9
_PAGE_LEN: Final = 4096
_HEADER: Final = struct.Struct("<4sIBB6s8sI4sI")
_POINTER: Final = struct.Struct("<8sB6sBI")
_FACS: Final = struct.Struct("<4sIIIII40x")
_FADT: Final = struct.Struct("<IIBBHIBBBBIIIIIIIIBBBBBBBBHHHHBBBBBHBI")
_NO_C2, _NO_C3 = 101, 1001
"""Latencies in microseconds that say that there is no such state."""
_CHECKSUM_PLACE: Final = 9
_OEM, _TABLE_ID, _CREATOR = b"VMIPAT", b"EMULATED", b"VMIP"
_LOCAL_APIC: Final = struct.Struct("<BBBBI")
_IO_APIC: Final = struct.Struct("<BBBBII")
_OVERRIDE: Final = struct.Struct("<BBBBIH")
_LOCAL_NMI: Final = struct.Struct("<BBBHB")
_HAS_AT_CONTROLLERS: Final = 1
_EVERY_PROCESSOR: Final = 0xFF
_ACTIVE_HIGH_LEVEL: Final = 0b1101


class FixedFeature(enum.IntFlag):
    """Flags of the FADT (table 5-6)."""

    WBINVD = 1 << 0
    C1 = 1 << 2
    NO_POWER_BUTTON = 1 << 4
    NO_SLEEP_BUTTON = 1 << 5
    NO_WAKE_ALARM = 1 << 6


def acpi_tables(cpus: int, *, base_pa: int, apic_pa: int) -> bytes:
    """A page for `base_pa`, writable for the guest: the FACS has a lock.

    `cpus`: how many processors, numbered from 0; the I/O APIC's number is the next one.
    `apic_pa`: of the local APICs. The operating system finds the first table at `base_pa`.
    """
    rsdt_pa, dsdt_pa, facs_pa, fadt_pa, madt_pa = (
        base_pa + off for off in (0x40, 0x80, 0x100, 0x140, 0x200)
    )
    return _page(
        base_pa,
        {
            base_pa: _root_pointer(rsdt_pa),
            rsdt_pa: _table(b"RSDT", struct.pack("<II", fadt_pa, madt_pa)),
            dsdt_pa: _table(b"DSDT", _aml()),
            facs_pa: _FACS.pack(b"FACS", _FACS.size, 0, 0, 0, 0),
            fadt_pa: _table(b"FACP", _fixed_hardware(facs_pa, dsdt_pa)),
            madt_pa: _table(b"APIC", _processors(cpus, apic_pa)),
        },
    )


def _page(base_pa: int, tables: Mapping[int, bytes]) -> bytes:
    """The tables at their addresses. Raises ValueError if two share a byte."""
    page, end_pa = bytearray(), base_pa
    for pa, table in sorted(tables.items()):
        if pa < end_pa:
            raise ValueError(f"tables overlap at {pa:#x}")
        page += bytes(pa - end_pa) + table
        end_pa = pa + len(table)
    if len(page) > _PAGE_LEN:
        raise ValueError(f"{len(page)} bytes of tables are more than a page")
    return bytes(page.ljust(_PAGE_LEN, b"\0"))


def _root_pointer(rsdt_pa: int) -> bytes:
    pointer = _POINTER.pack(b"RSD PTR ", 0, _OEM, 0, rsdt_pa)
    return with_checksum(pointer, 8)


def _table(signature: bytes, body: bytes) -> bytes:
    length = _HEADER.size + len(body)
    header = _HEADER.pack(signature, length, 1, 0, _OEM, _TABLE_ID, 1, _CREATOR, 1)
    return with_checksum(header + body, _CHECKSUM_PLACE)


def _aml() -> bytes:
    r"""`Name (\_S5, Package () { SOFT_OFF, SOFT_OFF, 0, 0 })`."""
    name_op, package_op, byte_prefix, zero_op = 0x08, 0x12, 0x0A, 0x00
    elements = bytes([byte_prefix, SOFT_OFF, byte_prefix, SOFT_OFF, zero_op, zero_op])
    package_len = 2 + len(elements)  # itself and the number of elements included
    return bytes([name_op]) + b"_S5_" + bytes([package_op, package_len, 4]) + elements


def _fixed_hardware(facs_pa: int, dsdt_pa: int) -> bytes:
    """Everything of the FADT but its header; registers that do not exist are 0."""
    flags = (
        FixedFeature.WBINVD | FixedFeature.C1 | FixedFeature.NO_POWER_BUTTON
        | FixedFeature.NO_SLEEP_BUTTON | FixedFeature.NO_WAKE_ALARM
    )  # fmt: skip
    dual_controllers, no_smi = 0, (0, 0, 0, 0, 0)
    return _FADT.pack(
        facs_pa, dsdt_pa, dual_controllers, 0, SCI_LINE, *no_smi,
        PM1_EVENT_PORT, 0, PM1_CONTROL_PORT, 0, 0, TIMER_PORT, 0, 0,
        PM1_EVENT_LEN, PM1_CONTROL_LEN, 0, TIMER_LEN, 0, 0, 0, 0,
        _NO_C2, _NO_C3, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags,
    )  # fmt: skip


def _processors(cpus: int, apic_pa: int) -> bytes:
    """The MADT (5.2.8) but for its header: line 0 at pin 2, the others at the pin of their name."""
    entries = [_LOCAL_APIC.pack(0, _LOCAL_APIC.size, number, number, 1) for number in range(cpus)]
    entries.append(_IO_APIC.pack(1, _IO_APIC.size, cpus, 0, IO_APIC_PA, 0))
    entries.append(_OVERRIDE.pack(2, _OVERRIDE.size, 0, 0, TIMER_PIN, 0))
    entries.append(_OVERRIDE.pack(2, _OVERRIDE.size, 0, SCI_LINE, SCI_LINE, _ACTIVE_HIGH_LEVEL))
    entries.append(_LOCAL_NMI.pack(4, _LOCAL_NMI.size, _EVERY_PROCESSOR, 0, 1))
    return struct.pack("<II", apic_pa, _HAS_AT_CONTROLLERS) + b"".join(entries)
