# SPDX-License-Identifier: MIT
"""How do kernel, ROM and initial file system become one image that Xen starts as domain 0?

Physical address 0 of the domain is linked at the kernel's PAGE_OFFSET, and the image spans all of
the domain's memory: so Xen gives it one block, and maps all of it (docs/xen.md).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.rom.header import GET_RELOC_OFF, INIT_OFF, RomHead
from vmipatch.vmi.calls import API_MAJOR, API_MINOR
from vmipatch.xen.code import RomCode, rom_code
from vmipatch.xen.facts import Facts
from vmipatch.xen.kernel import KernelPlaces, find_places

MIB = 1 << 20
PAGE_LEN = 4096
HEADERS_LEN = 0x1000
TAIL_LEN = 4 * MIB
"""Xen rounds the end of what it maps up to this, and has its own tables in it."""
TAIL_USED = 0x10000
HOLE_VA = 0xFFC00000
"""The kernel keeps its fixed mappings below: what is above is Xen's (virtual_top of the ROM)."""
ROM_LEN = PAGE_LEN

_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM = struct.Struct("<8I")
_LOAD, _NOTE, _ALL = 1, 4, 7


@dataclass(frozen=True, slots=True)
class Domain0:
    """An image for Xen."""

    data: bytes = field(repr=False)
    memory: int
    """MiB of memory that it spans: what domain 0 has to have."""
    rom_len: int
    """Bytes of ROM and loader in memory."""
    moves: int
    """Words that move with it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A segment; `pa` is the address in the domain's memory."""

    pa: int
    data: bytes
    mem_len: int

    @property
    def end(self) -> int:
        return self.pa + self.mem_len


def build_domain0(
    image: ElfImage,
    moves: Sequence[int],
    *,
    initrd: bytes = b"",
    append: str = "",
    memory: int = 128,
) -> Domain0:
    """`image`, a rewritten kernel, as domain 0 with `memory` MiB.

    `moves` are the linked virtual addresses of its words that hold addresses. Raises NotSupported
    if Xen cannot run the kernel, InputNotUnderstood if it does not fit into the memory.
    """
    places, rom = find_places(image), rom_code()
    kernel = [
        _Part(each.pa, image.data[each.off : each.off + each.file_len], each.mem_len)
        for each in image.loads
        if each.mem_len
    ]
    rom_pa = _rom_place(kernel, rom)
    distance = rom_pa + places.page_offset - rom.start
    start = max(part.end for part in (*kernel, _Part(rom_pa, b"", rom.mem_len)))
    initial, line = _after(start, initrd), append.encode() + b"\0"
    text = _after(initial.end, line)
    facts = _facts(places, rom, distance, memory, initial, text)
    words = _all_moves(moves, rom, distance, facts)
    facts = replace(facts, moves_len=len(words))
    listed = _Part(facts.moves - places.page_offset, words.tobytes(), 4 * len(words))
    linked = _Part(rom_pa, link_rom(rom, distance, places.page_offset, facts), rom.mem_len)
    end = memory * MIB - TAIL_LEN + TAIL_USED
    if listed.end > end - PAGE_LEN:
        raise InputNotUnderstood(
            f"kernel and initial file system need more than {memory} MiB",
            file=image.name,
            hint="give --domain-memory a greater number",
        )
    filler = _Part(end - PAGE_LEN, b"", PAGE_LEN)
    parts = [part for part in (linked, *kernel, initial, text, listed, filler) if part.mem_len]
    parts.sort(key=lambda part: part.pa)
    data = _elf(parts, places.page_offset, rom, distance)
    return Domain0(data, memory, rom.end - rom.start, len(words))


def _rom_place(kernel: Sequence[_Part], rom: RomCode) -> int:
    """Below the kernel if there is room, else after it."""
    if min(part.pa for part in kernel) >= rom.end:
        return rom.start
    return _page(max(part.end for part in kernel))


def _page(address: int) -> int:
    return -(-address // PAGE_LEN) * PAGE_LEN


def _after(end: int, data: bytes) -> _Part:
    return _Part(_page(end), data, len(data))


def _facts(
    places: KernelPlaces, rom: RomCode, distance: int, memory: int, initial: _Part, text: _Part
) -> Facts:
    """All but the number of words that move."""
    offset = places.page_offset
    return Facts(
        page_offset=offset,
        image_len=memory * MIB,
        moves_len=0,
        initrd_len=initial.mem_len,
        command_line_len=places.command_line_len,
        rom_head_len=len(_rom_head()),
        entry=places.entry,
        stack=places.stack,
        page_directory=places.page_directory,
        page_middle=places.page_middle,
        boot_params=places.boot_params,
        command_line=places.command_line,
        max_pfn_mapped=places.max_pfn_mapped,
        fixaddr_top=places.fixaddr_top,
        initrd=initial.pa + offset if initial.mem_len else 0,
        moves=_page(text.end) + offset,
        append=text.pa + offset,
        rom_start=rom.start + distance,
        rom_end=rom.end + distance,
    )


def _all_moves(moves: Sequence[int], rom: RomCode, distance: int, facts: Facts) -> np.ndarray:
    """The words of kernel and ROM, and those facts that are addresses."""
    facts_va = rom.symbols["facts"] + distance
    of_rom = (va + distance for va in rom.moving)
    return np.array(
        sorted([*moves, *of_rom, *(facts_va + off for off in facts.moving())]), dtype="<u4"
    )


def _rom_head() -> bytes:
    """The ROM's header; where the two entries are is filled in by the ROM itself."""
    head = RomHead("VMI ROM (xen)", "GPL v2", API_MAJOR, API_MINOR, HOLE_VA)
    return head.pack(ROM_LEN, b"", INIT_OFF + 5, GET_RELOC_OFF + 5)


def link_rom(rom: RomCode, distance: int, page_offset: int, facts: Facts) -> bytes:
    """The bytes of `rom` moved by `distance`, low memory at `page_offset`, with the facts."""
    data = bytearray(rom.data)
    for words, by in ((rom.moving, distance), (rom.fixed, page_offset)):
        for va in words:
            (value,) = struct.unpack_from("<I", data, va - rom.start)
            struct.pack_into("<I", data, va - rom.start, value + by & 0xFFFFFFFF)
    for name, content in (("facts", facts.pack()), ("rom_head", _rom_head())):
        off = rom.symbols[name] - rom.start
        data[off : off + len(content)] = content
    return bytes(data)


def _elf(parts: Sequence[_Part], page_offset: int, rom: RomCode, distance: int) -> bytes:
    """An ELF file of these segments, with the ROM's notes and entry."""
    note_va, note_len = rom.notes[0] + distance, rom.notes[1]
    headers, body = [], bytearray()
    for part in parts:
        body += bytes(-len(body) % PAGE_LEN)
        off = HEADERS_LEN + len(body)
        body += part.data
        va = part.pa + page_offset
        headers.append(
            _PROGRAM.pack(_LOAD, off, va, part.pa, len(part.data), part.mem_len, _ALL, PAGE_LEN)
        )
        if va <= note_va < va + len(part.data):
            at = off + note_va - va
            pa = note_va - page_offset
            headers.append(_PROGRAM.pack(_NOTE, at, note_va, pa, note_len, note_len, 4, 4))
    header = _HEADER.pack(
        b"\x7fELF\x01\x01\x01", 2, 3, 1, rom.entry + distance, _HEADER.size, 0, 0, _HEADER.size,
        _PROGRAM.size, len(headers), 0, 0, 0,
    )  # fmt: skip
    return (header + b"".join(headers)).ljust(HEADERS_LEN, b"\0") + bytes(body)
