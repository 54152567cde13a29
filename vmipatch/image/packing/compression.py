# SPDX-License-Identifier: MIT
"""Which compressions can a kernel have, and how is one that was used told?

Source: arch/x86/boot/compressed/Makefile of Linux (one suffix for each), lib/decompress.c (magic
numbers).
"""

from __future__ import annotations

import enum

LENGTH_LEN = 4
"""Bytes of unpacked length after a stream: gzip's own trailer, or appended by Linux's build."""


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

    @property
    def appended_len(self) -> int:
        """Bytes that Linux's build puts after the stream."""
        return 0 if self in (Compression.NONE, Compression.GZIP) else LENGTH_LEN

    @classmethod
    def of(cls, payload: bytes) -> Compression | None:
        """The compression whose magic `payload` begins with, or None."""
        return next((c for c in cls if payload.startswith(c.magic)), None)
