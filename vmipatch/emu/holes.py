# SPDX-License-Identifier: MIT
"""Which device listens at a physical address without memory? Only APICs do."""

from __future__ import annotations

from vmipatch.emu.devices.board import Board
from vmipatch.emu.devices.io_apic import IO_APIC_LEN, IO_APIC_PA
from vmipatch.emu.devices.local import LocalDevices
from vmipatch.emu.devices.local_apic import BASE_PA, LENGTH


def is_device(board: Board, pa: int) -> bool:
    """Whether any device is there."""
    return _in_apic(pa) or (board.io_apic is not None and _in_io_apic(pa))


def read_hole(board: Board, local: LocalDevices, pa: int, size: int) -> int:
    """A read of `size` bytes; a bus without a device reads ones."""
    if _in_apic(pa):
        return local.apic.read(pa - BASE_PA)
    if (io_apic := board.io_apic) is not None and _in_io_apic(pa):
        return io_apic.read(pa - IO_APIC_PA)
    return (1 << 8 * size) - 1


def write_hole(board: Board, local: LocalDevices, pa: int, value: int) -> bool:
    """A write; whether it may have changed what is to be delivered."""
    if _in_apic(pa):
        waited = local.interrupts.pending_line() is not None
        local.apic.write(pa - BASE_PA, value)
        return waited or local.interrupts.pending_line() is not None
    if (io_apic := board.io_apic) is not None and _in_io_apic(pa):
        io_apic.write(pa - IO_APIC_PA, value)
        return True
    return False


def _in_apic(pa: int) -> bool:
    return BASE_PA <= pa < BASE_PA + LENGTH


def _in_io_apic(pa: int) -> bool:
    return IO_APIC_PA <= pa < IO_APIC_PA + IO_APIC_LEN
