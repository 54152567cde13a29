# SPDX-License-Identifier: MIT
"""What does a disk hold? Up to two ATA disks on the AT's first channel, by programmed I/O.

Source: ANSI INCITS 317-1998, AT Attachment with Packet Interface (ATA/ATAPI-4): registers, PIO data
transfers, IDENTIFY DEVICE. A command is done at once; what is written stays in memory and goes
away with the machine.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from vmipatch.emu.devices.bus import PortBus

DATA_PORT, CONTROL_PORT = 0x1F0, 0x3F6
DISK_LINE: Final = 14
SECTOR_LEN: Final = 512
MOST_DISKS: Final = 2
_ERROR, _COUNT, _LBA_LOW, _LBA_HIGH, _DRIVE, _STATUS = 1, 2, 3, 5, 6, 7
_READY, _SEEK_DONE, _DATA, _FAILED = 0x40, 0x10, 0x08, 0x01
_ABORTED, _NOT_FOUND = 0x04, 0x10
_NO_INTERRUPTS: Final = 0x02
_BY_LBA, _SECOND = 0x40, 0x10
_READS: Final = frozenset({0x20, 0x21, 0xC4})
_WRITES: Final = frozenset({0x30, 0x31, 0xC5})
_MULTIPLE: Final = frozenset({0xC4, 0xC5})
_SET_MULTIPLE, _IDENTIFY = 0xC6, 0xEC
_DONE_AT_ONCE: Final = frozenset({0x10, 0x40, 0x41, 0x91, 0xE0, 0xE1, 0xE7, 0xEA, 0xEF})
"""RECALIBRATE, READ VERIFY, INITIALIZE DEVICE PARAMETERS, STANDBY and IDLE IMMEDIATE, FLUSH CACHE,
SET FEATURES: nothing is to be done."""
_HEADS, _SECTORS = 16, 63
_MOST_SECTORS: Final = 16
"""Of a block of READ MULTIPLE."""


class IdeDisks:
    """The channel. `set_line` raises and lowers its interrupt line."""

    def __init__(
        self, bus: PortBus, disks: Sequence[bytes], set_line: Callable[[bool], None]
    ) -> None:
        self._disks = [bytearray(disk.ljust(-(-len(disk) // SECTOR_LEN) * SECTOR_LEN, b"\0"))
                       for disk in disks[:MOST_DISKS]]  # fmt: skip
        self._set_line = set_line
        self._registers = bytearray(8)
        self._status = _READY | _SEEK_DONE
        self._control = 0
        self._block = [1] * MOST_DISKS
        """Sectors of a block of READ MULTIPLE, of each disk."""
        self._out = bytearray()
        """Bytes that the guest is to read."""
        self._left = self._block_len = self._at = 0
        """Bytes that the guest is to write, those of a block, and where the next goes."""
        self._in = bytearray()
        bus.claim_wide(DATA_PORT, self._read_data, self._write_data)
        for register in range(_ERROR, _STATUS):
            bus.claim(DATA_PORT + register, self._reader(register), self._writer(register))
        bus.claim(DATA_PORT + _STATUS, self._read_status, self._command)
        bus.claim(CONTROL_PORT, self._alternate_status, self._write_control)

    @property
    def _chosen(self) -> int:
        return int(bool(self._registers[_DRIVE] & _SECOND))

    @property
    def _disk(self) -> bytearray | None:
        return self._disks[self._chosen] if self._chosen < len(self._disks) else None

    def _reader(self, register: int) -> Callable[[], int]:
        return lambda: self._registers[register] if self._disk is not None else 0

    def _writer(self, register: int) -> Callable[[int], None]:
        def write(value: int) -> None:
            self._registers[register] = value

        return write

    def _alternate_status(self) -> int:
        """The status of the disk; a disk that is not there drives no line of its own."""
        return 0 if self._disk is None else self._status

    def _read_status(self) -> int:
        self._set_line(False)
        return self._alternate_status()

    def _write_control(self, value: int) -> None:
        self._control = value

    def _interrupt(self) -> None:
        if not self._control & _NO_INTERRUPTS:
            self._set_line(True)

    def _command(self, code: int) -> None:
        disk = self._disk
        if disk is None:
            return
        self._set_line(False)
        self._status, self._out = _READY | _SEEK_DONE, bytearray()
        self._left, self._in = 0, bytearray()
        block = self._block[self._chosen] if code in _MULTIPLE else 1
        self._block_len = SECTOR_LEN * block
        if code == _IDENTIFY:
            self._give(_identity(len(disk) // SECTOR_LEN))
        elif code in _READS or code in _WRITES:
            self._transfer(disk, writes=code in _WRITES)
        elif code == _SET_MULTIPLE and 0 < self._registers[_COUNT] <= _MOST_SECTORS:
            self._block[self._chosen] = self._registers[_COUNT]
            self._interrupt()
        elif code in _DONE_AT_ONCE:
            self._interrupt()
        else:
            self._fail(_ABORTED)

    def _fail(self, error: int) -> None:
        self._status |= _FAILED
        self._registers[_ERROR] = error
        self._interrupt()

    def _give(self, data: bytes) -> None:
        self._out = bytearray(data)
        self._status |= _DATA
        self._interrupt()

    def _transfer(self, disk: bytearray, *, writes: bool) -> None:
        """Begin to move as many sectors as the count register says; 0 means 256."""
        length = SECTOR_LEN * (self._registers[_COUNT] or 256)
        start = SECTOR_LEN * self._sector()
        if not 0 <= start <= start + length <= len(disk):
            self._fail(_NOT_FOUND)
        elif writes:
            self._left, self._at = length, start
            self._status |= _DATA
        else:
            self._give(bytes(disk[start : start + length]))

    def _sector(self) -> int:
        low = self._registers[_LBA_LOW : _LBA_HIGH + 1]
        head = self._registers[_DRIVE] & 0xF
        if self._registers[_DRIVE] & _BY_LBA:
            return int.from_bytes(low, "little") | head << 24
        cylinder = low[1] | low[2] << 8
        return (cylinder * _HEADS + head) * _SECTORS + low[0] - 1

    def _read_data(self, size: int) -> int:
        value = int.from_bytes(self._out[:size], "little")
        del self._out[:size]
        if not self._out:
            self._status &= ~_DATA
        elif len(self._out) % self._block_len == 0:
            self._interrupt()
        return value

    def _write_data(self, size: int, value: int) -> None:
        disk = self._disk
        if not self._left or disk is None:
            return
        self._in += value.to_bytes(size, "little")
        if len(self._in) < min(self._block_len, self._left):
            return
        disk[self._at : self._at + len(self._in)] = self._in
        self._at += len(self._in)
        self._left -= len(self._in)
        self._in = bytearray()
        if not self._left:
            self._status &= ~_DATA
        self._interrupt()


def _identity(sectors: int) -> bytes:
    """The answer of IDENTIFY DEVICE: a fixed disk with LBA, by the numbers of its words."""
    cylinders = min(sectors // (_HEADS * _SECTORS), 16383)
    words = [0] * 256
    words[0] = 0x0040
    words[1], words[3], words[6] = cylinders, _HEADS, _SECTORS
    words[10:20] = _text("1", 10)
    words[23:27] = _text("1", 4)
    words[27:47] = _text("vmipatch disk", 20)
    words[47], words[49] = 0x8000 | _MOST_SECTORS, 0x0200
    words[60], words[61] = sectors & 0xFFFF, sectors >> 16
    words[80] = 0x001E
    return struct.pack("<256H", *words)


def _text(text: str, words: int) -> list[int]:
    """Text as IDENTIFY DEVICE has it: the first of two characters in the upper byte."""
    return list(struct.unpack(f">{words}H", text.ljust(2 * words).encode()))
