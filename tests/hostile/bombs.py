# SPDX-License-Identifier: MIT
"""Which small files ask for gigabytes of memory, or hours, of a program that reads them?

All are written from the System V ABI (chapter 4), and of less than 20 MB.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import lz4.block
import zstandard
from lzallright import LZOCompressor

from vmipatch.image.packing.compression import Compression
from vmipatch.image.types import SectionKind

MIB: Final = 1 << 20
HEADER: Final = struct.Struct("<16sHHIIIIIHHHHHH")
SECTION: Final = struct.Struct("<10I")
SEGMENT: Final = struct.Struct("<8I")
SYMBOL: Final = struct.Struct("<IIIBBH")
ALLOC_EXEC: Final = 6
TEXT_VA: Final = 0xC1000000


@dataclass(frozen=True, slots=True)
class Head:
    """One section header; `at` and `size` of the file, `name` into the table of names."""

    kind: SectionKind
    at: int
    size: int
    name: int = 0
    flags: int = 0
    va: int = 0
    link: int = 0
    info: int = 0
    entry_len: int = 0


def elf(body: bytes, heads: Sequence[Head], names: int, *, relocatable: bool = False) -> bytes:
    """A file of `body` and headers, with one segment over it all; section 0 comes by itself."""
    body_at = HEADER.size + SEGMENT.size
    table_at = body_at + len(body)
    rows = [bytes(SECTION.size)]
    rows += [
        SECTION.pack(
            h.name,
            h.kind.value,
            h.flags,
            h.va,
            body_at + h.at,
            h.size,
            h.link,
            h.info,
            1,
            h.entry_len,
        )
        for h in heads
    ]
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    kind, segments = (1, 0) if relocatable else (2, 1)
    numbers = (52, 32, segments, 40, len(rows), names)
    header = HEADER.pack(ident, kind, 3, 1, 0x1000000, HEADER.size, table_at, 0, *numbers)
    segment = SEGMENT.pack(1, 0, 0xC0000000, 0, body_at, body_at, 7, 0x1000)
    return header + segment + body + b"".join(rows)


def _names(*names: bytes) -> tuple[bytes, list[int]]:
    table, at = b"\0", []
    for name in names:
        at.append(len(table))
        table += name + b"\0"
    return table, at


def one_long_section_name(relocatable: bool = False) -> bytes:
    """2,000 sections whose name is the same mebibyte."""
    names = b"\0" + b"n" * MIB + b"\0"
    heads = [Head(SectionKind.STRTAB, 0, len(names))]
    heads += [Head(SectionKind.PROGBITS, 0, 0, 1 + index % 64) for index in range(2000)]
    return elf(names, heads, 1, relocatable=relocatable)


def one_long_symbol_name(relocatable: bool = False) -> bytes:
    """200,000 symbols whose names are the ends of one of a mebibyte."""
    names, at = _names(b".text", b".symtab", b".strtab", b".shstrtab")
    strings = b"\0" + b"s" * MIB + b"\0"
    symbols = bytes(16) + b"".join(
        SYMBOL.pack(1 + index % 999, TEXT_VA + index % 64, 0, 0x12, 0, 4)
        for index in range(200_000)
    )
    body = names + strings + symbols + b"\x90" * 64
    text_at = len(names) + len(strings) + len(symbols)
    heads = [
        Head(SectionKind.STRTAB, 0, len(names), at[3]),
        Head(SectionKind.STRTAB, len(names), len(strings), at[2]),
        Head(SectionKind.SYMTAB, len(names) + len(strings), len(symbols), at[1], 0, 0, 2, 1, 16),
        Head(SectionKind.PROGBITS, text_at, 64, at[0], ALLOC_EXEC, TEXT_VA),
    ]
    return elf(body, heads, 1, relocatable=relocatable)


def many_code_sections(count: int = 30_000, relocatable: bool = False) -> bytes:
    """As many executable sections as there may be, a few bytes each."""
    names, at = _names(b".text", b".shstrtab", b".symtab", b".strtab")
    body = names + b"\xfa\x90\xfb\xc3" * count + bytes(16) + b"\0"
    tail = len(names) + 4 * count
    heads = [
        Head(SectionKind.STRTAB, 0, len(names), at[1]),
        Head(SectionKind.STRTAB, tail + 16, 1, at[3]),
        Head(SectionKind.SYMTAB, tail, 16, at[2], 0, 0, 2, 1, 16),
    ]
    heads += [
        Head(SectionKind.PROGBITS, len(names) + 4 * i, 4, at[0], ALLOC_EXEC, TEXT_VA + 4 * i)
        for i in range(count)
    ]
    return elf(body, heads, 1, relocatable=relocatable)


def one_code_many_times(relocatable: bool = False) -> bytes:
    """1,500 executable sections that all have the same 8 MiB of the file."""
    names, at = _names(b".text", b".shstrtab")
    body = names + b"\xfa\x90\xfb\xc3" * (2 * MIB)
    heads = [Head(SectionKind.STRTAB, 0, len(names), at[1])]
    heads += [
        Head(SectionKind.PROGBITS, len(names), 8 * MIB, at[0], ALLOC_EXEC, 0x1000000 + (i << 12))
        for i in range(1500)
    ]
    return elf(body, heads, 1, relocatable=relocatable)


def one_table_many_times(relocatable: bool = False) -> bytes:
    """2,000 relocation sections that all have the same 8 MiB of entries, and apply to .text."""
    names, at = _names(b".text", b".rel.text", b".symtab", b".strtab", b".shstrtab")
    code, symbols, strings = b"\xfa\xc3" * 32, bytes(16), b"\0"
    head_len = len(names) + len(code) + len(symbols) + len(strings)
    body = names + code + symbols + strings + struct.pack("<II", TEXT_VA, 1) * MIB
    heads = [
        Head(SectionKind.STRTAB, 0, len(names), at[4]),
        Head(SectionKind.PROGBITS, len(names), len(code), at[0], ALLOC_EXEC, TEXT_VA),
        Head(SectionKind.SYMTAB, len(names) + len(code), 16, at[2], 0, 0, 4, 1, 16),
        Head(SectionKind.STRTAB, head_len - 1, 1, at[3]),
    ]
    heads += [Head(SectionKind.REL, head_len, 8 * MIB, at[1], 0, 0, 3, 2, 8) for _ in range(2000)]
    return elf(body, heads, 1, relocatable=relocatable)


def relocations_of_themselves(relocatable: bool = False) -> bytes:
    """2,000 relocation sections, each of which applies to itself."""
    names, at = _names(b".text", b".rel.text", b".symtab", b".strtab", b".shstrtab")
    code = b"\xfa\xc3" * 32
    entries_at = len(names) + len(code) + 17
    body = names + code + bytes(17) + struct.pack("<II", 0, 1) * 1000
    heads = [
        Head(SectionKind.STRTAB, 0, len(names), at[4]),
        Head(SectionKind.PROGBITS, len(names), len(code), at[0], ALLOC_EXEC, TEXT_VA),
        Head(SectionKind.SYMTAB, len(names) + len(code), 16, at[2], 0, 0, 4, 1, 16),
        Head(SectionKind.STRTAB, entries_at - 1, 1, at[3]),
    ]
    heads += [
        Head(SectionKind.REL, entries_at, 8000, at[1], 2, TEXT_VA, 3, 5 + i, 8) for i in range(2000)
    ]
    return elf(body, heads, 1, relocatable=relocatable)


def notes_without_end(relocatable: bool = False) -> bytes:
    """Sections of notes whose lengths wrap around, and are of four gigabytes."""
    names, at = _names(b".text", b".notes", b".shstrtab")
    code = b"\xfa\xc3" * 32
    notes = struct.pack("<III", 0xFFFFFFFC, 0xFFFFFFFC, 18) * (MIB // 2)
    body = names + code + notes
    heads = [
        Head(SectionKind.STRTAB, 0, len(names), at[2]),
        Head(SectionKind.PROGBITS, len(names), len(code), at[0], ALLOC_EXEC, TEXT_VA),
        Head(SectionKind.NOTE, len(names) + len(code), len(notes), at[1], 2, TEXT_VA + 0x1000),
    ]
    return elf(body, heads, 1, relocatable=relocatable)


def memory_without_bytes(relocatable: bool = False) -> bytes:
    """A .bss of three gigabytes."""
    names, at = _names(b".text", b".bss", b".shstrtab")
    code = b"\xfa\xc3" * 32
    heads = [
        Head(SectionKind.STRTAB, 0, len(names), at[2]),
        Head(SectionKind.PROGBITS, len(names), len(code), at[0], ALLOC_EXEC, 0x100000),
        Head(SectionKind.NOBITS, len(names), 3 << 30, at[1], 3, 0x1000000),
    ]
    return elf(names + code, heads, 1, relocatable=relocatable)


SHAPES: Final[dict[str, Callable[[bool], bytes]]] = {
    "one long name of sections": one_long_section_name,
    "one long name of symbols": one_long_symbol_name,
    "many sections of code": lambda relocatable: many_code_sections(30_000, relocatable),
    "as many sections as there may be": lambda relocatable: many_code_sections(
        16_000 if relocatable else 500, relocatable
    ),
    "one code many times": one_code_many_times,
    "one table many times": one_table_many_times,
    "relocations of themselves": relocations_of_themselves,
    "notes without end": notes_without_end,
    "memory without bytes": memory_without_bytes,
}
"""By name: a file of that kind; True for a module."""

UNPACKED_LEN: Final = 512 * MIB


def packed_zeros(packing: Compression, length: int = UNPACKED_LEN, front: bytes = b"") -> bytes:
    """A stream that unpacks to `front` and zeros, `length` bytes together.

    Made piece by piece: what unpacks to gigabytes takes no gigabytes to write.
    """
    step = bytes(8 * MIB)
    pieces = [front + bytes(8 * MIB - len(front))] + [step] * (length // len(step) - 1)
    if packing is Compression.LZ4:
        blocks = [lz4.block.compress(piece, store_size=False) for piece in (pieces[0], step)]
        order = [blocks[0]] + [blocks[1]] * (len(pieces) - 1)
        return packing.magic + b"".join(struct.pack("<I", len(b)) + b for b in order)
    if packing is Compression.LZO:
        return _lzop(front, length)
    if packing is Compression.ZSTD:
        zstd = zstandard.ZstdCompressor(level=1).compressobj()
        return b"".join(map(zstd.compress, pieces)) + zstd.flush()
    makers: dict[Compression, Any] = {
        Compression.GZIP: lambda: zlib.compressobj(1, wbits=31),
        Compression.BZIP2: bz2.BZ2Compressor,
        Compression.XZ: lambda: lzma.LZMACompressor(lzma.FORMAT_XZ, preset=0),
        Compression.LZMA: lambda: lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0),
    }
    maker = makers[packing]()
    packed: bytes = b"".join(map(maker.compress, pieces)) + maker.flush()
    return packed


def _lzop(front: bytes, length: int) -> bytes:
    header = b"\x89LZO\0\r\n\x1a\n" + struct.pack(">HHHBBI", 0x1040, 0x20A0, 0x0940, 3, 9, 0)
    header += bytes(12) + b"\0" + bytes(4)
    block, packer = 256 << 10, LZOCompressor()
    first, other = (packer.compress(x + bytes(block - len(x))) for x in (front, b""))
    out = [header]
    for body in [first] + [other] * (length // block - 1):
        out.append(struct.pack(">II", block, len(body)) + body)
    return b"".join([*out, bytes(4)])


def bzimage(payload: bytes) -> bytes:
    """The least that has the setup header of a bzImage, with this payload."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x200:0x202] = b"\xeb\x66"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    setup[0x211] = 1
    struct.pack_into("<I", setup, 0x214, 0x100000)
    struct.pack_into("<I", setup, 0x230, 0x200000)
    setup[0x234] = 1
    struct.pack_into("<II", setup, 0x248, 0x200, len(payload))
    struct.pack_into("<QII", setup, 0x258, 0x1000000, 0x2000000, 0)
    return bytes(setup) + bytes(0x200) + payload + bytes(16)
