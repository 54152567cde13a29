# SPDX-License-Identifier: MIT
"""With which parameters was a stream packed: what of its head does not depend on the data?

Boot code unpacks with little memory and few options: a stream with a larger dictionary, another
check or another filter unpacks here and not there.
"""

from __future__ import annotations

from vmipatch.image.packing.compression import Compression

_HEADS = {Compression.GZIP: 10, Compression.BZIP2: 4, Compression.LZMA: 13, Compression.LZ4: 4}
"""Bytes of heads of one length: RFC 1952, bzip2, the LZMA_Alone format, LZ4's legacy frame."""
_XZ_BLOCK_AT, _XZ_SIZES = 12, 0xC0
"""The .xz file format 1.1.0, sections 2.1.1 and 3.1."""
_ZSTD_DESCRIPTOR_AT, _SINGLE_SEGMENT = 4, 0x20
"""RFC 8878, section 3.1.1.1."""


def parameters(compression: Compression, stream: bytes) -> bytes:
    """The bytes that say how `stream` was packed; nothing for lzop, whose recipe has its head."""
    if compression is Compression.XZ:
        return _of_xz(stream)
    if compression is Compression.ZSTD:
        return _of_zstd(stream)
    return stream[: _HEADS.get(compression, 0)]


def _of_xz(stream: bytes) -> bytes:
    """Stream flags and filters. The sizes that threads write into block headers are left out."""
    head, block = stream[:_XZ_BLOCK_AT], stream[_XZ_BLOCK_AT:]
    block = block[: 4 * (block[0] + 1) - 4] if block else b""
    flags, at = block[1] if len(block) > 1 else 0, 2
    for bit in (0x40, 0x80):
        while flags & bit and at < len(block) and block[at] & 0x80:
            at += 1
        at += bool(flags & bit)
    return head + bytes((flags & ~_XZ_SIZES,)) + block[at:].rstrip(b"\0")


def _of_zstd(stream: bytes) -> bytes:
    """Frame descriptor and window; the window of a single segment is the data itself."""
    (descriptor,) = stream[_ZSTD_DESCRIPTOR_AT:][:1] or b"\0"
    has_window = not descriptor & _SINGLE_SEGMENT
    return stream[: _ZSTD_DESCRIPTOR_AT + 1 + has_window]
