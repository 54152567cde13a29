# SPDX-License-Identifier: MIT
"""Where does a linear address lead? The page walk that the CPU does, for us.

Source: Intel SDM volume 3, 4.3 (32-bit paging, with 4 MiB pages and PSE-36) and 4.4 (PAE). The
physical addresses of this CPU have 40 bits; what an entry has above them is reserved.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

from vmipatch.emu.processor.bits import Cr0, Cr4
from vmipatch.emu.processor.memory import PAGE_LEN, GuestMemory
from vmipatch.emu.processor.registers import MASK32, RegisterFile

PRESENT: Final = 1 << 0
WRITABLE: Final = 1 << 1
USER: Final = 1 << 2
ACCESSED: Final = 1 << 5
DIRTY: Final = 1 << 6
LARGE: Final = 1 << 7
# Plain numbers: & with an IntFlag takes a microsecond.
_PG, _WP, _PSE, _PAE = int(Cr0.PG), int(Cr0.WP), int(Cr4.PSE), int(Cr4.PAE)
_FRAME: Final = ~0xFFF
_PAE_FRAME: Final = 0xFFFFFFF000
_LARGE_FRAME: Final = 0xFFC00000
_LARGE_HIGH, _LARGE_SHIFT, _LARGE_RESERVED = 0x1FE000, 19, 0x200000
"""Of a 4 MiB page, bits 39 to 32 of the frame are in bits 20 to 13 of the entry (PSE-36)."""
_PAE_RESERVED: Final = 0x7FFFFF0000000000
"""No-execute aside, which is reserved too unless EFER.NXE is set: that a kernel knows."""
_PAE_LARGE_RESERVED: Final = 0x1FE000


class PageFaultCode(enum.IntFlag):
    """The error code of a page fault."""

    PRESENT = 1 << 0
    WRITE = 1 << 1
    USER = 1 << 2
    RESERVED = 1 << 3


class PageFault(Exception):
    """A linear address leads nowhere, or must not be written."""

    def __init__(self, va: int, code: int) -> None:
        super().__init__(f"page fault at {va:#x}, error code {code:#x}")
        self.va = va
        self.code = code


class Mmu:
    """Linear addresses, read and written with the rights of the kernel (CPL 0 to 2)."""

    def __init__(self, memory: GuestMemory, registers: RegisterFile) -> None:
        self._memory = memory
        self._registers = registers

    def find(self, va: int) -> int | None:
        """The physical address that `va` maps to, or None; nothing is marked as accessed."""
        try:
            return self._walk(va & MASK32, False, False)
        except PageFault:
            return None

    def translate(self, va: int, *, write: bool = False) -> int:
        """The physical address that `va` maps to, with accessed and dirty bits set as the CPU does.

        Raises PageFault.
        """
        return self._walk(va & MASK32, write, True)

    def _walk(self, va: int, write: bool, mark: bool) -> int:
        registers = self._registers
        cr0, cr4 = registers.cr0, registers.cr4
        if not cr0 & _PG:
            return va
        protect = write and bool(cr0 & _WP)
        if cr4 & _PAE:
            return self._walk_pae(va, write, mark, protect)
        memory = self._memory
        entry_pa = (registers.cr3 & _FRAME) + (va >> 22) * 4
        entry = self._visit(entry_pa, va, write, mark, 0)
        rights = entry
        if entry & LARGE and cr4 & _PSE:
            _check_reserved(va, entry & _LARGE_RESERVED, write)
            frame = entry & _LARGE_FRAME | (entry & _LARGE_HIGH) << _LARGE_SHIFT
            offset = va & 0x3FFFFF
        else:
            entry_pa = (entry & _FRAME) + (va >> 12 & 0x3FF) * 4
            entry = self._visit(entry_pa, va, write, mark, 0)
            rights &= entry
            frame, offset = entry & _FRAME, va & 0xFFF
        _check(va, rights, protect)
        if mark and write and not entry & DIRTY:
            memory.write_u32(entry_pa, memory.read_u32(entry_pa) | DIRTY)
        return frame + offset

    def _walk_pae(self, va: int, write: bool, mark: bool, protect: bool) -> int:
        memory = self._memory
        root_pa = (self._registers.cr3 & ~0x1F) + (va >> 30) * 8
        root = memory.read_u32(root_pa)
        if not root & PRESENT:
            raise PageFault(va, PageFaultCode.WRITE if write else 0)
        root |= memory.read_u32(root_pa + 4) << 32
        _check_reserved(va, root & _PAE_RESERVED, write)
        entry_pa = (root & _PAE_FRAME) + (va >> 21 & 0x1FF) * 8
        entry = self._visit(entry_pa, va, write, mark, 8)
        rights = entry
        if entry & LARGE:
            _check_reserved(va, entry & _PAE_LARGE_RESERVED, write)
            frame, offset = entry & _PAE_FRAME & ~0x1FFFFF, va & 0x1FFFFF
        else:
            entry_pa = (entry & _PAE_FRAME) + (va >> 12 & 0x1FF) * 8
            entry = self._visit(entry_pa, va, write, mark, 8)
            rights &= entry
            frame, offset = entry & _PAE_FRAME, va & 0xFFF
        _check(va, rights, protect)
        if mark and write and not entry & DIRTY:
            memory.write_u32(entry_pa, memory.read_u32(entry_pa) | DIRTY)
        return frame + offset

    def _visit(self, entry_pa: int, va: int, write: bool, mark: bool, width: int) -> int:
        """One entry of `width` 8 (PAE) or 4 bytes, present and marked as accessed."""
        memory = self._memory
        entry = memory.read_u32(entry_pa)
        if not entry & PRESENT:
            raise PageFault(va, PageFaultCode.WRITE if write else 0)
        whole = entry
        if width == 8:
            whole |= memory.read_u32(entry_pa + 4) << 32
            _check_reserved(va, whole & _PAE_RESERVED, write)
        if mark and not entry & ACCESSED:
            memory.write_u32(entry_pa, entry | ACCESSED)
        return whole

    def read_u32(self, va: int) -> int:
        """Four bytes at a linear address. Raises PageFault."""
        if va & 3:
            return int.from_bytes(self.read(va, 4), "little")
        return self._memory.read_u32(self.translate(va))

    def read_u64(self, va: int) -> tuple[int, int]:
        """The lower and the upper half of eight bytes at a linear address. Raises PageFault."""
        if va & 7:
            return self.read_u32(va), self.read_u32(va + 4)
        pa = self.translate(va)
        return self._memory.read_u32(pa), self._memory.read_u32(pa + 4)

    def write_words(self, va: int, values: Sequence[int]) -> None:
        """Write 32-bit words upwards from `va`. Raises PageFault before the first is written."""
        length = 4 * len(values)
        if va & 3 or va & (PAGE_LEN - 1) > PAGE_LEN - length:
            self.translate(va, write=True)
            self.translate(va + length - 1, write=True)
            for i, value in enumerate(values):
                self.write_u32(va + 4 * i, value)
            return
        pa = self.translate(va, write=True)
        for i, value in enumerate(values):
            self._memory.write_u32(pa + 4 * i, value)

    def write_u32(self, va: int, value: int) -> None:
        """Write four bytes at a linear address. Raises PageFault before the first is written."""
        pa = self.translate(va, write=True)
        if pa & (PAGE_LEN - 1) <= PAGE_LEN - 4:
            self._memory.write_u32(pa, value)
            return
        places = [self.translate(va + i, write=True) for i in range(4)]
        for i, place in enumerate(places):
            self._memory.write_u8(place, value >> 8 * i)

    def read(self, va: int, length: int) -> bytes:
        """Bytes at a linear address. Raises PageFault."""
        parts = []
        while length:
            piece = min(length, PAGE_LEN - (va & (PAGE_LEN - 1)))
            parts.append(self._memory.read(self.translate(va), piece))
            va, length = (va + piece) & MASK32, length - piece
        return b"".join(parts)

    def peek(self, va: int, length: int) -> bytes:
        """As many bytes from `va` on as are mapped, for a report; nothing changes."""
        parts = []
        while length > 0:
            pa = self.find(va)
            if pa is None:
                break
            piece = min(length, PAGE_LEN - (va & (PAGE_LEN - 1)))
            parts.append(self._memory.read(pa, piece))
            va, length = (va + piece) & MASK32, length - piece
        return b"".join(parts)


def _check(va: int, rights: int, protect: bool) -> None:
    if protect and not rights & WRITABLE:
        raise PageFault(va, PageFaultCode.PRESENT | PageFaultCode.WRITE)


def _check_reserved(va: int, bits: int, write: bool) -> None:
    if bits:
        code = PageFaultCode.PRESENT | PageFaultCode.RESERVED
        raise PageFault(va, code | PageFaultCode.WRITE if write else code)
