# SPDX-License-Identifier: MIT
"""How does a multiboot kernel get into memory, and what does it find there?

Sources: Multiboot Specification version 0.6.96, chapters 3.2 and 3.3; Multiboot2 Specification
version 2.0, chapters 3.3 and 3.6. Modules follow the kernel, each on a page of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from vmipatch.emu.memory_map import E820Entry, E820Kind, memory_map
from vmipatch.emu.processor.memory import HIGH_PA, PAGE_LEN, GuestMemory
from vmipatch.emu.processor.registers import RegisterFile
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.multiboot import LoadAddresses, MultibootHeader, multiboot_headers

INFO_PA: Final = 0x10000
"""Information and strings, above what a BIOS uses."""
INFO_END_PA: Final = 0x90000
LOADER_NAME: Final = b"vmipatch\0"
_EAX: Final = {1: 0x2BADB002, 2: 0x36D76289}
_MEMORY, _BOOT_DEVICE, _COMMAND_LINE, _MODULES, _MAP, _NAME = 1, 2, 4, 8, 0x40, 0x200
_FIRST_DISK: Final = 0x8000FFFF
"""Drive 80h, no partition: what there is not, but is the value that loaders give without a disk."""
_INFO_LEN: Final = 120
_MAP_ENTRY = struct.Struct("<IQQI")
_BIOS_DATA_PA: Final = 0x400
_COM1, _CRTC, _COLUMNS, _TEXT_MODE, _ROWS = 0x3F8, 0x3D4, 80, 3, 24
_EBDA_SEGMENT, _LOW_K = 0x9FC0, 639
_SERVED_TAGS: Final = frozenset({1, 2, 3, 4, 5, 6, 8, 9, 10})
_REQUESTED: Final = 1
_TAG_COMMAND_LINE, _TAG_NAME, _TAG_MODULE, _TAG_MEMORY, _TAG_BOOT_DEVICE, _TAG_MAP = range(1, 7)


@dataclass(frozen=True, slots=True)
class BootModule:
    """A file that the loader puts into memory for the kernel."""

    data: bytes = field(repr=False)
    text: str = ""
    """Its name with arguments, as the kernel reads it."""


@dataclass(frozen=True, slots=True)
class _Placed:
    start_pa: int
    end_pa: int
    text: bytes


def header_of(kernel: ElfImage) -> MultibootHeader | None:
    """By which header a kernel is loaded: version 1 before 2; None if it is not multiboot."""
    return next(iter(multiboot_headers(kernel.data)), None)


def load_multiboot(
    memory: GuestMemory, kernel: ElfImage, line: str, modules: Sequence[BootModule]
) -> None:
    """Put kernel, modules, information and BIOS data area into memory.

    Raises InputNotUnderstood if something does not fit.
    """
    header = header_of(kernel)
    assert header is not None, "the caller has asked"
    end_pa = _load_kernel(memory, kernel, header)
    placed = _load_modules(memory, modules, end_pa)
    make = _information_1 if header.version == 1 else _information_2
    data = make(memory.ram_len, line.encode() + b"\0", placed)
    if INFO_PA + len(data) > INFO_END_PA:
        raise InputNotUnderstood(
            f"the command line and the names of modules take {len(data)} bytes",
            hint="give shorter ones",
        )
    memory.load(INFO_PA, data)
    memory.load(_BIOS_DATA_PA, _bios_data())


def enter_multiboot(registers: RegisterFile, kernel: ElfImage) -> None:
    """The registers that differ from other protocols: magic number, information, and entry."""
    header = header_of(kernel)
    assert header is not None, "the caller has asked"
    registers.eax = _EAX[header.version]
    registers.ebx = INFO_PA
    registers.esi = 0
    registers.eip = entry_pa(kernel, header)


def entry_pa(kernel: ElfImage, header: MultibootHeader) -> int:
    """Where the loader enters: as the header says, else the ELF header, by a physical address."""
    if header.entries:
        return header.entries[0]
    for segment in kernel.loads:
        if segment.va <= kernel.entry < segment.va + segment.mem_len:
            return kernel.entry - segment.va + segment.pa
    return kernel.entry


def _load_kernel(memory: GuestMemory, kernel: ElfImage, header: MultibootHeader) -> int:
    """The kernel as its header says, or its segments; returns where it ends."""
    if header.addresses is not None:
        return _load_flat(memory, kernel, header, header.addresses)
    end_pa = 0
    for segment in kernel.loads:
        data = kernel.data[segment.off : segment.off + segment.file_len]
        end_pa = max(end_pa, _put(memory, kernel, segment.pa, data, segment.mem_len))
    return end_pa


def _load_flat(
    memory: GuestMemory, kernel: ElfImage, header: MultibootHeader, at: LoadAddresses
) -> int:
    begin_off = header.off - (at.header_pa - at.load_pa)
    if at.load_pa == 0xFFFFFFFF:
        begin_off = 0
    load_pa = at.header_pa - (header.off - begin_off)
    end_off = begin_off + at.load_end_pa - load_pa if at.load_end_pa else len(kernel.data)
    if not 0 <= begin_off <= end_off <= len(kernel.data):
        raise InputNotUnderstood(
            "its multiboot header loads bytes that the file does not have",
            file=kernel.name,
            place=f"offset {header.off:#x}",
        )
    data = kernel.data[begin_off:end_off]
    return _put(memory, kernel, load_pa, data, at.bss_end_pa - load_pa if at.bss_end_pa else 0)


def _put(memory: GuestMemory, kernel: ElfImage, pa: int, data: bytes, mem_len: int) -> int:
    """Bytes at an address, zeros up to `mem_len`; returns where that ends."""
    end_pa = pa + max(len(data), mem_len)
    if pa < HIGH_PA or end_pa > memory.ram_len:
        raise InputNotUnderstood(
            f"[{pa:#x}, {end_pa:#x}) does not fit into memory from 1 MiB on",
            file=kernel.name,
            hint="give the machine more memory (--memory)",
        )
    memory.load(pa, data.ljust(end_pa - pa, b"\0"))
    return end_pa


def _load_modules(memory: GuestMemory, modules: Sequence[BootModule], end_pa: int) -> list[_Placed]:
    """One after the other after the kernel, from pages' starts on."""
    placed: list[_Placed] = []
    for module in modules:
        start_pa = -(-end_pa // PAGE_LEN) * PAGE_LEN
        end_pa = start_pa + len(module.data)
        if end_pa > memory.ram_len:
            raise InputNotUnderstood(
                f"the module {module.text or len(placed) + 1} does not fit into memory",
                hint="give the machine more memory (--memory)",
            )
        memory.load(start_pa, module.data)
        placed.append(_Placed(start_pa, end_pa, module.text.encode() + b"\0"))
    return placed


def _information_1(ram_len: int, line: bytes, modules: Sequence[_Placed]) -> bytes:
    """The structure of version 1, and after it the strings and tables that it points to."""
    extra = bytearray()

    def put(data: bytes) -> int:
        extra.extend(bytes(-len(extra) % 4))
        extra.extend(data)
        return INFO_PA + _INFO_LEN + len(extra) - len(data)

    line_pa, name_pa = put(line), put(LOADER_NAME)
    texts = [put(module.text) for module in modules]
    rows = zip(modules, texts, strict=True)
    table_pa = put(b"".join(struct.pack("<4I", m.start_pa, m.end_pa, t, 0) for m, t in rows))
    entries = memory_map(ram_len)
    listed = b"".join(_MAP_ENTRY.pack(_MAP_ENTRY.size - 4, e.pa, e.length, e.kind) for e in entries)
    map_pa = put(listed)
    flags = _MEMORY | _BOOT_DEVICE | _COMMAND_LINE | _MODULES | _MAP | _NAME
    low_k, high_k = _sizes(entries)
    info = struct.pack(
        "<12I", flags, low_k, high_k, _FIRST_DISK, line_pa, len(modules), table_pa, 0, 0, 0, 0,
        len(listed),
    )  # fmt: skip
    info += struct.pack("<5I", map_pa, 0, 0, 0, name_pa)
    return info.ljust(_INFO_LEN, b"\0") + bytes(extra)


def _information_2(ram_len: int, line: bytes, modules: Sequence[_Placed]) -> bytes:
    """The tags of version 2, each at a multiple of 8 bytes."""
    entries = memory_map(ram_len)
    tags = [_tag(_TAG_COMMAND_LINE, line), _tag(_TAG_NAME, LOADER_NAME)]
    for module in modules:
        body = struct.pack("<2I", module.start_pa, module.end_pa) + module.text
        tags.append(_tag(_TAG_MODULE, body))
    tags.append(_tag(_TAG_MEMORY, struct.pack("<2I", *_sizes(entries))))
    tags.append(_tag(_TAG_BOOT_DEVICE, struct.pack("<3I", 0x80, 0xFFFFFFFF, 0xFFFFFFFF)))
    listed = b"".join(struct.pack("<QQII", e.pa, e.length, e.kind, 0) for e in entries)
    tags.append(_tag(_TAG_MAP, struct.pack("<2I", 24, 0) + listed))
    tags.append(_tag(0, b""))
    body = b"".join(tags)
    return struct.pack("<2I", 8 + len(body), 0) + body


def _tag(kind: int, body: bytes) -> bytes:
    data = struct.pack("<2I", kind, 8 + len(body)) + body
    return data + bytes(-len(data) % 8)


def _sizes(entries: Sequence[E820Entry]) -> tuple[int, int]:
    """KiB of memory from 0 and from 1 MiB on, up to the first hole."""
    low, high = (
        sum(e.length for e in entries if e.kind is E820Kind.RAM and e.pa == pa) >> 10
        for pa in (0, HIGH_PA)
    )
    return low, high


def _bios_data() -> bytes:
    """The area of a BIOS at 0x400: the first serial port, sizes, and a colour display of text."""
    area = bytearray(0x100)
    for off, form, value in (
        (0x00, "<H", _COM1),
        (0x0E, "<H", _EBDA_SEGMENT),
        (0x10, "<H", 0x0220),
        (0x13, "<H", _LOW_K),
        (0x49, "<B", _TEXT_MODE),
        (0x4A, "<H", _COLUMNS),
        (0x63, "<H", _CRTC),
        (0x84, "<B", _ROWS),
    ):
        struct.pack_into(form, area, off, value)
    return bytes(area)
