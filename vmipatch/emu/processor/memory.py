# SPDX-License-Identifier: MIT
"""What is at a guest-physical address? RAM, pages put into the hole below 1 MiB, or nothing.

The whole of [0, ram_len) is one host mapping that Unicorn executes from. The hole that every PC has
at 640 KiB is part of the mapping, but the guest sees of it only the pages that `plug` has put there
(an option ROM, pages shared with the hypervisor). Where nothing is, reads give ones and writes are
lost, as on a bus.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmipatch.errors import EnvironmentProblem

PAGE_LEN: Final = 4096
LOW_END_PA: Final = 0xA0000
HIGH_PA: Final = 0x100000
MIN_RAM_LEN: Final = 4 << 20
MAX_RAM_LEN: Final = 0xC0000000
"""Above are the addresses of devices, on a PC as here."""


class Access(enum.Enum):
    """The guest's access to memory."""

    READ_ONLY = "read-only"
    READ_WRITE = "read-write"


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """Guest-physical memory [pa, pa + length) that exists."""

    pa: int
    length: int
    access: Access


class GuestMemory:
    """The memory of a machine. Addresses are guest-physical, lengths bytes."""

    def __init__(self, ram_len: int) -> None:
        """Raise ValueError for a length that no machine has, EnvironmentProblem without RAM."""
        if not MIN_RAM_LEN <= ram_len <= MAX_RAM_LEN or ram_len % PAGE_LEN:
            raise ValueError(f"{ram_len} bytes are no memory for a machine")
        try:
            self._mapping = mmap.mmap(-1, ram_len)
        except OSError as error:
            raise EnvironmentProblem(
                f"the system refuses {ram_len >> 20} MiB for the guest: {error.strerror}",
                hint="give the guest less memory (--memory)",
            ) from error
        self.ram_len = ram_len
        self.host_va = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        """Host address of guest-physical 0."""
        self.octets = memoryview(self._mapping)
        self.words = self.octets.cast("I")
        self._plugged: dict[int, Access] = {}
        self.octets[LOW_END_PA:HIGH_PA] = b"\xff" * (HIGH_PA - LOW_END_PA)

    def plug(self, pa: int, data: bytes, access: Access) -> None:
        """Put pages with `data` into the hole below 1 MiB, before a CPU is made.

        Raises ValueError if they are not whole pages of the hole.
        """
        if pa % PAGE_LEN or len(data) % PAGE_LEN or not LOW_END_PA <= pa <= HIGH_PA - len(data):
            raise ValueError(f"[{pa:#x}, {pa + len(data):#x}) are not pages of the hole")
        self.octets[pa : pa + len(data)] = data
        for page in range(pa, pa + len(data), PAGE_LEN):
            self._plugged[page] = access

    def regions(self) -> Iterator[MemoryRegion]:
        """The memory that the guest can see, in address order."""
        yield MemoryRegion(0, LOW_END_PA, Access.READ_WRITE)
        for page, access in sorted(self._plugged.items()):
            yield MemoryRegion(page, PAGE_LEN, access)
        yield MemoryRegion(HIGH_PA, self.ram_len - HIGH_PA, Access.READ_WRITE)

    def holes(self, end_pa: int) -> Iterator[tuple[int, int]]:
        """Address and length of what is empty below `end_pa`, in address order."""
        at = 0
        for region in self.regions():
            if region.pa > at:
                yield at, region.pa - at
            at = region.pa + region.length
        yield at, end_pa - at

    def can_write(self, pa: int) -> bool:
        """Whether the guest may write the byte at `pa`."""
        if LOW_END_PA <= pa < HIGH_PA:
            return self._plugged.get(pa & -PAGE_LEN) is Access.READ_WRITE
        return pa < self.ram_len

    def can_read(self, pa: int) -> bool:
        """Whether there is memory at `pa`."""
        if LOW_END_PA <= pa < HIGH_PA:
            return pa & -PAGE_LEN in self._plugged
        return pa < self.ram_len

    def read_u8(self, pa: int) -> int:
        """One byte as the guest sees it."""
        return self.octets[pa] if self.can_read(pa) else 0xFF

    def read_u16(self, pa: int) -> int:
        """Two bytes as the guest sees them, little-endian."""
        return self.read_u8(pa) | self.read_u8(pa + 1) << 8

    def read_u32(self, pa: int) -> int:
        """Four bytes as the guest sees them, little-endian."""
        if pa & 3 or not self.can_read(pa):
            return self.read_u16(pa) | self.read_u16(pa + 2) << 16
        return self.words[pa >> 2]

    def write_u8(self, pa: int, value: int) -> None:
        """Write one byte as the guest would; lost where it may not."""
        if self.can_write(pa):
            self.octets[pa] = value & 0xFF

    def write_u32(self, pa: int, value: int) -> None:
        """Write four bytes as the guest would; lost where it may not."""
        if not pa & 3 and self.can_write(pa):
            self.words[pa >> 2] = value & 0xFFFFFFFF
            return
        for i in range(4):
            self.write_u8(pa + i, value >> 8 * i)

    def read(self, pa: int, length: int) -> bytes:
        """Bytes as the guest sees them."""
        inside = pa + length <= self.ram_len and not (pa < HIGH_PA and pa + length > LOW_END_PA)
        if inside:
            return bytes(self.octets[pa : pa + length])
        return bytes(self.read_u8(pa + i) for i in range(length))

    def load(self, pa: int, data: bytes) -> None:
        """Put `data` there as a boot loader or the host does, whatever the guest may do.

        Raises ValueError outside of memory. After writing code that may have run already, call
        `Cpu.flush_code`.
        """
        if pa < 0 or pa + len(data) > self.ram_len:
            raise ValueError(f"[{pa:#x}, {pa + len(data):#x}) is not in memory")
        self.octets[pa : pa + len(data)] = data

    def digest(self) -> str:
        """SHA-256 over all memory: equal after two runs of the same guest."""
        return hashlib.sha256(self.octets).hexdigest()
