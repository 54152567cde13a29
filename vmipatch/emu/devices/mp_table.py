# SPDX-License-Identifier: MIT
"""Which processors and APICs does the BIOS tell of without ACPI? A MultiProcessor table.

Source: Intel MultiProcessor Specification 1.4, chapter 4. One bus (ISA), one I/O APIC, the lines of
the AT at its pins; the controllers of the AT come in at LINT0 of the boot processor.
"""

from __future__ import annotations

import struct
from typing import Final

from vmipatch.emu.devices.checksum import with_checksum
from vmipatch.emu.devices.io_apic import IO_APIC_PA, pin_of
from vmipatch.emu.devices.messages import BROADCAST

_POINTER: Final = struct.Struct("<4sIBBB5B")
_HEADER: Final = struct.Struct("<4sHBB8s12sIHHIHBB")
_PROCESSOR: Final = struct.Struct("<BBBBII8x")
_BUS: Final = struct.Struct("<BB6s")
_IO_APIC: Final = struct.Struct("<BBBBI")
_INTERRUPT: Final = struct.Struct("<BBHBBBB")
_TABLE_OFF: Final = 0x20
_SPECIFICATION: Final = 4  # 1.4
_IS_PROCESSOR, _IS_BUS, _IS_IO_APIC, _IS_LINE, _IS_LOCAL_LINE = range(5)
_LOCAL_VERSION, _IO_VERSION = 0x14, 0x11
_ENABLED, _BOOT = 1, 2
_INT, _NMI, _EXT_INT = 0, 1, 3
_AT_LINES: Final = tuple(line for line in range(16) if line != 2)
"""Line 2 is where the second controller comes in."""


def mp_table(cpus: int, *, base_pa: int, apic_pa: int, signature: int, features: int) -> bytes:
    """The table for `base_pa`; operating systems look for it in steps of 16 bytes.

    `cpus`: how many processors, numbered from 0; the I/O APIC's number is the next one.
    `signature` and `features`: EAX and EDX of CPUID leaf 1. `apic_pa`: of the local APICs.
    """
    entries = [_processor(number, signature, features) for number in range(cpus)]
    entries.append(_BUS.pack(_IS_BUS, 0, b"ISA   "))
    entries.append(_IO_APIC.pack(_IS_IO_APIC, cpus, _IO_VERSION, _ENABLED, IO_APIC_PA))
    entries += [
        _INTERRUPT.pack(_IS_LINE, _INT, 0, 0, line, cpus, pin_of(line)) for line in _AT_LINES
    ]
    entries.append(_INTERRUPT.pack(_IS_LOCAL_LINE, _EXT_INT, 0, 0, 0, 0, 0))
    entries.append(_INTERRUPT.pack(_IS_LOCAL_LINE, _NMI, 0, 0, 0, BROADCAST, 1))
    body = b"".join(entries)
    header = _HEADER.pack(
        b"PCMP", _HEADER.size + len(body), _SPECIFICATION, 0, b"VMIPATCH", b"EMULATED PC ",
        0, 0, len(entries), apic_pa, 0, 0, 0,
    )  # fmt: skip
    pointer = _POINTER.pack(b"_MP_", base_pa + _TABLE_OFF, 1, _SPECIFICATION, 0, 0, 0, 0, 0, 0)
    return with_checksum(pointer, 10).ljust(_TABLE_OFF, b"\0") + with_checksum(header + body, 7)


def _processor(number: int, signature: int, features: int) -> bytes:
    flags = _ENABLED | (_BOOT if number == 0 else 0)
    return _PROCESSOR.pack(_IS_PROCESSOR, number, _LOCAL_VERSION, flags, signature, features)
