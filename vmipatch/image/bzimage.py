# SPDX-License-Identifier: MIT
"""What is inside a bzImage: the kernel it holds as an ELF file, and its relocation list.

Source: Documentation/x86/boot.rst of Linux (payload_offset, payload_length) and
arch/x86/boot/compressed: the payload is compressed(ELF file + relocation list), followed by four
bytes of length where the compression itself does not tell it.
"""

from __future__ import annotations

import bz2
import enum
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from vmipatch.errors import InputNotUnderstood, MalformedImage
from vmipatch.image.reloc_list import parse_list
from vmipatch.image.setup_header import SetupHeader

PAYLOAD_SINCE = 0x0208
"""The first boot protocol that tells where the payload lies (Linux 2.6.26)."""
MAX_PAYLOAD_LEN = 1 << 30
"""No i386 kernel is longer than 512 MiB; twice that is an attack or damage."""
_SHT_NULL, _SHT_NOBITS = 0, 8


class Compression(enum.Enum):
    """How a payload is packed: name for messages, first bytes."""

    NONE = ("none", b"\x7fELF")
    GZIP = ("gzip", b"\x1f\x8b")
    XZ = ("xz", b"\xfd7zXZ\0")
    BZIP2 = ("bzip2", b"BZh")
    LZMA = ("lzma", b"\x5d\0\0")
    LZO = ("lzo", b"\x89LZO")
    LZ4 = ("lz4", b"\x02\x21\x4c\x18")
    ZSTD = ("zstd", b"\x28\xb5\x2f\xfd")

    def __init__(self, label: str, magic: bytes) -> None:
        self.label = label
        self.magic = magic

    @classmethod
    def of(cls, payload: bytes) -> Compression | None:
        """The compression whose magic `payload` begins with, or None."""
        return next((c for c in cls if payload.startswith(c.magic)), None)


class _Unpacker(Protocol):
    """What the decompressors of zlib, bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_UNPACKERS: dict[Compression, Callable[[], _Unpacker]] = {
    Compression.GZIP: lambda: zlib.decompressobj(wbits=31),
    Compression.XZ: lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ),
    Compression.BZIP2: bz2.BZ2Decompressor,
    Compression.LZMA: lambda: lzma.LZMADecompressor(format=lzma.FORMAT_ALONE),
}


@dataclass(frozen=True, slots=True)
class BzImage:
    """A bzImage and what it holds."""

    name: str
    """What to call the file in messages."""
    header: SetupHeader
    compression: Compression
    vmlinux: bytes = field(repr=False)
    """The ELF file, ready for ElfImage.parse."""
    relocs: tuple[int, ...] | None = field(repr=False)
    """Linked virtual addresses of the words that move with the kernel; None if there is no list."""
    version: str
    """The version string for boot menus, empty if there is none."""

    @classmethod
    def parse(cls, data: bytes, name: str = "<bytes>") -> BzImage:
        """Read the bzImage `data`.

        Raises InputNotUnderstood if it is no bzImage, older than protocol 2.08, or packed by a
        compression that Python's library does not know; MalformedImage if it is damaged.
        """
        header = SetupHeader.parse(data, name)
        payload = _payload(data, header, name)
        compression = Compression.of(payload)
        if compression is None:
            raise InputNotUnderstood(
                f"the payload begins with {payload[:6].hex(' ')}, no compression that Linux uses",
                file=name,
                place=f"offset {header.code_off + header.payload_offset:#x}",
                hint="give the vmlinux of the same build",
            )
        unpacked = _unpack(payload, compression, name)
        end = elf_length(unpacked, name)
        tail = unpacked[end:]
        relocs = parse_list(tail, name) if tail else None
        version = _version(data, header)
        return cls(name, header, compression, unpacked[:end], relocs, version)


def is_bzimage(data: bytes) -> bool:
    """Whether `data` has the magic number of a bzImage."""
    return data[0x202:0x206] == b"HdrS"


def elf_length(data: bytes, name: str) -> int:
    """Bytes of the ELF32 file that `data` begins with: the end of what its headers speak of.

    Raises MalformedImage if that is more than there is.
    """
    if len(data) < 52 or data[:6] != b"\x7fELF\x01\x01":
        raise MalformedImage(
            "the payload is not a 32-bit ELF file",
            file=name,
            place="payload",
            hint="vmipatch works on i386 kernels only",
        )
    phoff, shoff = struct.unpack_from("<II", data, 28)
    header_len, ph_len, ph_count, sh_len, sh_count = struct.unpack_from("<5H", data, 40)
    ends: list[int] = [header_len, phoff + ph_len * ph_count, shoff + sh_len * sh_count]
    if max(ends) <= len(data) and (not ph_count or ph_len >= 32) and (not sh_count or sh_len >= 40):
        for at in range(phoff, phoff + ph_len * ph_count, ph_len or 1):
            offset, _, _, file_len = struct.unpack_from("<4I", data, at + 4)
            ends.append(offset + file_len)
        for at in range(shoff, shoff + sh_len * sh_count, sh_len or 1):
            kind, _, _, offset, size = struct.unpack_from("<5I", data, at + 4)
            ends.append(0 if kind in (_SHT_NULL, _SHT_NOBITS) else offset + size)
        if max(ends) <= len(data):
            return max(ends)
    raise MalformedImage(
        "the ELF file in the payload is not complete",
        file=name,
        place="payload",
        hint="the file is truncated or corrupted: copy it again",
    )


def _payload(data: bytes, header: SetupHeader, name: str) -> bytes:
    """The packed bytes that the header points to."""
    if header.version < PAYLOAD_SINCE or not header.payload_length:
        raise InputNotUnderstood(
            f"boot protocol {header.version >> 8}.{header.version & 0xFF:02} "
            "does not tell where the payload lies",
            file=name,
            hint="give the vmlinux of the same build",
        )
    start = header.code_off + header.payload_offset
    if start + header.payload_length > len(data):
        raise MalformedImage(
            f"the payload should end at {start + header.payload_length:#x}, the file has "
            f"{len(data):#x} bytes",
            file=name,
            place=f"offset {start:#x}",
            hint="the file is truncated: copy it again",
        )
    return data[start : start + header.payload_length]


def _unpack(payload: bytes, compression: Compression, name: str) -> bytes:
    """The unpacked payload."""
    if compression is Compression.NONE:
        return payload
    if compression not in _UNPACKERS:
        raise InputNotUnderstood(
            f"the payload is packed with {compression.label}, which is not supported",
            file=name,
            hint="unpack it with the kernel's scripts/extract-vmlinux, or give the vmlinux",
        )
    unpacker = _UNPACKERS[compression]()
    try:
        unpacked = unpacker.decompress(payload, MAX_PAYLOAD_LEN)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise _damaged(f"the {compression.label} payload is damaged: {error}", name) from error
    if len(unpacked) >= MAX_PAYLOAD_LEN:
        raise _damaged("the payload unpacks to more than any kernel is long", name)
    if not unpacker.eof:
        raise _damaged(f"the {compression.label} payload ends too early", name)
    return unpacked


def _damaged(message: str, name: str) -> MalformedImage:
    hint = "the file is truncated or corrupted: copy it again"
    return MalformedImage(message, file=name, place="payload", hint=hint)


def _version(data: bytes, header: SetupHeader) -> str:
    """The NUL-terminated string that kernel_version points to."""
    if not header.kernel_version:
        return ""
    start = header.kernel_version + 0x200
    return data[start : start + 256].split(b"\0")[0].decode("ascii", "replace")
