# SPDX-License-Identifier: MIT
"""What day is it in the guest? The real-time clock with its CMOS memory.

Source: Motorola MC146818A data sheet; the bytes for sizes of memory as in the IBM AT's Technical
Reference, and 34h and 35h as BIOSes since have them. The date follows the virtual clock from a
fixed beginning; the clock's own interrupts are not modelled, nor can the date be set.
"""

from __future__ import annotations

import datetime
from typing import Final

from vmipatch.emu.clock import NS_PER_S, Clock
from vmipatch.emu.devices.bus import PortBus

INDEX_PORT, DATA_PORT = 0x70, 0x71
POWER_ON: Final = datetime.datetime(2006, 8, 1)
"""Any fixed day does."""
EPOCH_NS: Final = int(POWER_ON.replace(tzinfo=datetime.UTC).timestamp()) * NS_PER_S
"""From 1970 to POWER_ON."""
_STATUS_A, _STATUS_B, _STATUS_C, _STATUS_D = 0x0A, 0x0B, 0x0C, 0x0D
_CENTURY = 0x32
_MODE_24H = 0x02
_BINARY = 0x04
_VALID = 0x80
_DIVIDER_32768HZ = 0x26
_BASE_K_AT, _EXTENDED_K_AT, _FOUND_K_AT, _ABOVE_64K_AT = 0x15, 0x17, 0x30, 0x34
BASE_K: Final = 640
_MOST_K: Final = 0xFC00
"""KiB from 1 MiB on, as far as 16 bits tell them; from 16 MiB on there is a word of 64 KiB."""
_ABOVE: Final = 16 << 20


class Cmos:
    """128 bytes that an index selects; the first ten show date and time."""

    def __init__(self, clock: Clock, bus: PortBus, ram_len: int = 0) -> None:
        """`ram_len`: bytes of memory that a BIOS has noted; 0 if it has not."""
        self._clock = clock
        self._index = 0
        self._bytes = bytearray(128)
        self._bytes[_STATUS_A] = _DIVIDER_32768HZ
        self._bytes[_STATUS_B] = _MODE_24H
        if ram_len:
            self._note_memory(ram_len)
        bus.claim(INDEX_PORT, None, self._write_index)
        bus.claim(DATA_PORT, self._read, self._write)

    def _note_memory(self, ram_len: int) -> None:
        extended_k = min((ram_len >> 10) - 1024, _MOST_K)
        above_64k = max(ram_len - _ABOVE, 0) >> 16
        for at, value in (
            (_BASE_K_AT, BASE_K), (_EXTENDED_K_AT, extended_k), (_FOUND_K_AT, extended_k),
            (_ABOVE_64K_AT, min(above_64k, 0xFFFF)),
        ):  # fmt: skip
            self._bytes[at : at + 2] = value.to_bytes(2, "little")

    def _write_index(self, value: int) -> None:
        self._index = value & 0x7F

    def _write(self, value: int) -> None:
        self._bytes[self._index] = value

    def _read(self) -> int:
        now = self._now()
        fields = {
            0x00: now.second,
            0x02: now.minute,
            0x04: now.hour,
            0x06: now.isoweekday() % 7 + 1,
            0x07: now.day,
            0x08: now.month,
            0x09: now.year % 100,
            _CENTURY: now.year // 100,
        }
        if self._index in fields:
            value = fields[self._index]
            return value if self._bytes[_STATUS_B] & _BINARY else value // 10 << 4 | value % 10
        if self._index == _STATUS_C:
            return 0
        return _VALID if self._index == _STATUS_D else self._bytes[self._index]

    def _now(self) -> datetime.datetime:
        return POWER_ON + datetime.timedelta(seconds=self._clock.now_ns // NS_PER_S)
