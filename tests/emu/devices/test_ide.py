# SPDX-License-Identifier: MIT
"""Does an ATA disk give and keep its sectors, as a driver with programmed I/O asks for them?"""

from __future__ import annotations

import struct

import pytest

from vmipatch.emu.devices.bus import PortBus
from vmipatch.emu.devices.ide import CONTROL_PORT, DATA_PORT, SECTOR_LEN, IdeDisks

READY, DATA, FAILED = 0x50, 0x08, 0x01
READ, WRITE, READ_MULTIPLE, WRITE_MULTIPLE, SET_MULTIPLE = 0x20, 0x30, 0xC4, 0xC5, 0xC6
IDENTIFY, FLUSH, FORMAT_TRACK = 0xEC, 0xE7, 0x50


class Drive:
    """A driver, and the channel that it drives."""

    def __init__(self, *disks: bytes) -> None:
        self.bus = PortBus()
        self.edges: list[bool] = []
        IdeDisks(self.bus, disks, self.edges.append)

    def ask(self, command: int, sector: int = 0, count: int = 1, disk: int = 0) -> int:
        """Write the registers by LBA, give the command; the status."""
        for register, value in (
            (2, count), (3, sector & 0xFF), (4, sector >> 8 & 0xFF), (5, sector >> 16 & 0xFF),
            (6, 0xE0 | disk << 4 | sector >> 24), (7, command),
        ):  # fmt: skip
            self.bus.write(DATA_PORT + register, 1, value)
        return self.bus.read(CONTROL_PORT, 1)

    def take(self, length: int, size: int = 4) -> bytes:
        return b"".join(
            self.bus.read(DATA_PORT, size).to_bytes(size, "little") for _ in range(length // size)
        )

    def give(self, data: bytes, size: int = 2) -> None:
        for at in range(0, len(data), size):
            self.bus.write(DATA_PORT, size, int.from_bytes(data[at : at + size], "little"))

    def interrupts(self) -> int:
        """How often the line rose since the last question."""
        count, self.edges[:] = self.edges.count(True), []
        return count


def disk(sectors: int) -> bytes:
    return b"".join(bytes([number & 0xFF]) * SECTOR_LEN for number in range(sectors))


@pytest.mark.parametrize("size", [2, 4])
def test_sectors_are_read_by_words_of_16_and_32_bits(size: int) -> None:
    drive = Drive(disk(300))
    assert drive.ask(READ, 258, 2) == READY | DATA
    assert drive.take(2 * SECTOR_LEN, size) == bytes([2]) * SECTOR_LEN + bytes([3]) * SECTOR_LEN
    assert drive.bus.read(DATA_PORT + 7, 1) == READY
    assert drive.interrupts() == 2, "one for each sector"


def test_interrupt_is_answered_by_a_read_of_the_status_and_can_be_forbidden() -> None:
    drive = Drive(disk(1))
    drive.ask(READ)
    assert drive.edges[-1] is True, "the other status register answers nothing"
    drive.bus.read(DATA_PORT + 7, 1)
    assert drive.edges[-1] is False
    drive.interrupts()
    drive.bus.write(CONTROL_PORT, 1, 2)
    drive.ask(READ)
    assert drive.interrupts() == 0


@pytest.mark.parametrize(("command", "blocks"), [(WRITE, 4), (WRITE_MULTIPLE, 2)])
def test_what_was_written_is_read_back(command: int, blocks: int) -> None:
    drive = Drive(disk(8))
    drive.ask(SET_MULTIPLE, count=2)
    data = bytes(range(256)) * 8
    drive.interrupts()
    assert drive.ask(command, 3, 4) == READY | DATA
    drive.give(data)
    assert drive.bus.read(DATA_PORT + 7, 1) == READY
    assert drive.interrupts() == blocks
    drive.ask(READ_MULTIPLE, 2, 6)
    assert drive.take(6 * SECTOR_LEN) == bytes([2]) * SECTOR_LEN + data + bytes([7]) * SECTOR_LEN
    assert drive.interrupts() == 3


def test_content_that_was_given_is_not_changed() -> None:
    content = disk(2)
    drive = Drive(content)
    drive.ask(WRITE, 0)
    drive.give(bytes(SECTOR_LEN))
    assert content == disk(2)


def test_identity_tells_size_and_name() -> None:
    drive = Drive(disk(5))
    assert drive.ask(IDENTIFY) == READY | DATA
    words = struct.unpack("<256H", drive.take(SECTOR_LEN))
    assert words[60] | words[61] << 16 == 5
    assert words[49] & 0x200, "it is addressed by LBA"
    assert struct.pack(">20H", *words[27:47]).decode().strip() == "vmipatch disk"


def test_sectors_are_found_by_cylinder_head_and_sector_too() -> None:
    drive = Drive(disk(16 * 63 + 70))
    for register, value in ((2, 1), (3, 5), (4, 1), (5, 0), (6, 0xA1), (7, READ)):
        drive.bus.write(DATA_PORT + register, 1, value)
    number = (1 * 16 + 1) * 63 + 5 - 1
    assert drive.take(SECTOR_LEN) == bytes([number & 0xFF]) * SECTOR_LEN


def test_count_of_zero_is_256_sectors() -> None:
    drive = Drive(disk(256))
    drive.ask(READ, 0, 0)
    assert drive.take(256 * SECTOR_LEN) == disk(256)


def test_second_disk_is_another_one_and_a_missing_one_is_silent() -> None:
    both = Drive(disk(1), bytes([9]) * SECTOR_LEN)
    both.ask(READ, disk=1)
    assert both.take(SECTOR_LEN) == bytes([9]) * SECTOR_LEN
    alone = Drive(disk(1))
    assert alone.ask(READ, disk=1) == 0
    assert [alone.bus.read(DATA_PORT + register, 1) for register in (2, 7)] == [0, 0]
    assert alone.interrupts() == 0


@pytest.mark.parametrize(
    ("command", "sector", "error"), [(FORMAT_TRACK, 0, 0x04), (READ, 2, 0x10), (WRITE, 1, 0x10)]
)
def test_what_cannot_be_done_fails_with_its_error(command: int, sector: int, error: int) -> None:
    drive = Drive(disk(2))
    assert drive.ask(command, sector, 2) == READY | FAILED
    assert drive.bus.read(DATA_PORT + 1, 1) == error
    assert drive.ask(FLUSH) == READY, "the next command begins anew"


def test_disk_of_a_length_between_sectors_is_filled_up() -> None:
    drive = Drive(b"end")
    drive.ask(READ)
    assert drive.take(SECTOR_LEN) == b"end".ljust(SECTOR_LEN, b"\0")
