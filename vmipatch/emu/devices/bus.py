# SPDX-License-Identifier: MIT
"""Which device answers at an I/O port? Devices claim ports, the bus asks them byte by byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

Reader = Callable[[], int]
Writer = Callable[[int], None]
WideReader = Callable[[int], int]
"""From the bytes of an access to its value."""
WideWriter = Callable[[int, int], None]
"""Gets the bytes of an access, and its value."""
_DWORD_LEN = 4


class PortBus:
    """The I/O space: 65,536 ports of one byte. Where no device is, reads give ones."""

    def __init__(self) -> None:
        self._readers: dict[int, Reader] = {}
        self._writers: dict[int, Writer] = {}
        self._dwords: dict[int, tuple[Reader, Writer]] = {}
        self._wide: dict[int, tuple[WideReader, WideWriter]] = {}
        self.reads: Counter[int] = Counter()
        """How often each port was read."""
        self.writes: Counter[int] = Counter()
        """How often each port was written."""

    def claim(self, port: int, read: Reader | None, write: Writer | None) -> None:
        """Let a device answer at `port`. Raises ValueError if another one does."""
        if port in self._readers or port in self._writers:
            raise ValueError(f"port {port:#x} is taken")
        if read is not None:
            self._readers[port] = read
        if write is not None:
            self._writers[port] = write

    def claim_dword(self, port: int, read: Reader, write: Writer) -> None:
        """Let a device answer accesses of 32 bits at `port`, and no others."""
        self._dwords[port] = read, write

    def claim_wide(self, port: int, read: WideReader, write: WideWriter) -> None:
        """Let a device answer accesses of 16 and 32 bits at `port` as a whole."""
        self._wide[port] = read, write

    def read(self, port: int, size: int) -> int:
        """`in` of `size` bytes; a wide access is one of consecutive ports, as on an ISA bus."""
        self.reads[port] += 1
        if size == 1:
            read = self._readers.get(port)
            return 0xFF if read is None else read()
        if size == _DWORD_LEN and port in self._dwords:
            return self._dwords[port][0]()
        if port in self._wide:
            return self._wide[port][0](size)
        value = 0
        for i in range(size):
            reader = self._readers.get(port + i & 0xFFFF)
            value |= (0xFF if reader is None else reader()) << 8 * i
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """`out` of `size` bytes."""
        self.writes[port] += 1
        if size == 1:
            write = self._writers.get(port)
            if write is not None:
                write(value & 0xFF)
            return
        if size == _DWORD_LEN and port in self._dwords:
            self._dwords[port][1](value)
            return
        if port in self._wide:
            self._wide[port][1](size, value)
            return
        for i in range(size):
            writer = self._writers.get(port + i & 0xFFFF)
            if writer is not None:
                writer(value >> 8 * i & 0xFF)
