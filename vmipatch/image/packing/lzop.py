# SPDX-License-Identifier: MIT
"""How does lzop pack? A header, then blocks with their lengths and checksums.

Source: the file format as lib/decompress_unlzo.c of Linux reads it (lzop 1.00 and later), which
takes blocks of at most 256 KiB.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

from vmipatch.image.packing.bounded import Collected
from vmipatch.image.packing.codec import Codec, CorruptStream, Packer, Recipe, missing_package
from vmipatch.image.packing.compression import Compression
from vmipatch.image.packing.program import is_there, run_compressor

MAGIC = b"\x89LZO\0\r\n\x1a\n"
BLOCK_LEN = 256 << 10
_ADLER_UNPACKED, _ADLER_PACKED, _FILTER = 1, 2, 0x800
_CRC_UNPACKED, _CRC_PACKED = 0x100, 0x200
_LONG_MTIME_SINCE = 0x0940
_FIELDS = struct.Struct(">HHHBBI")


def _unpack(payload: bytes, limit: int) -> tuple[bytes, int]:
    try:
        from lzallright import LZOCompressor, LZOError
    except ImportError as error:
        raise missing_package(Compression.LZO, "lzallright") from error
    start, flags = _header(payload)
    out, at = Collected(limit), start
    for unpacked_len, body, end in _blocks(payload, start, flags):
        at = end
        try:
            block = body
            if len(body) < unpacked_len:
                block = LZOCompressor.decompress(body, unpacked_len)
        except LZOError as error:
            raise CorruptStream(f"a block does not unpack: {error}") from error
        if len(block) != unpacked_len:
            raise CorruptStream("a block has not the length that it says")
        out.add(block)
    return out.whole(), at + 4


def _candidates(stream: bytes) -> Iterable[Recipe]:
    start, _ = _header(stream)
    header = stream[:start]
    if is_there("lzop"):
        yield Recipe(Compression.LZO, Packer.PROGRAM, "-9", header)
    yield Recipe(Compression.LZO, Packer.LIBRARY, "-9", header)


def _pack(recipe: Recipe, data: bytes) -> bytes:
    if recipe.maker is Packer.PROGRAM:
        made = run_compressor("lzop", recipe.options, data)
        return recipe.header + made[_header(made)[0] :]
    try:
        from lzallright import LZOCompressor
    except ImportError as error:
        raise missing_package(Compression.LZO, "lzallright") from error
    packer, out = LZOCompressor(), [recipe.header]
    _, flags = _header(recipe.header)
    for at in range(0, len(data), BLOCK_LEN):
        out.append(_block(data[at : at + BLOCK_LEN], packer.compress, flags))
    return b"".join((*out, bytes(4)))


def is_header(header: bytes) -> bool:
    """Whether a recipe may begin a stream with these bytes."""
    try:
        return _header(header)[0] == len(header)
    except CorruptStream:
        return False


def _header(stream: bytes) -> tuple[int, int]:
    """Length of the header, and its flags."""
    try:
        version, _, _, _, _, flags = _FIELDS.unpack_from(stream, len(MAGIC))
        at = len(MAGIC) + _FIELDS.size + (4 if flags & _FILTER else 0)
        at += 12 if version >= _LONG_MTIME_SINCE else 8
        end = at + 1 + stream[at] + 4
    except (struct.error, IndexError) as error:
        raise CorruptStream("its header is cut off") from error
    if not stream.startswith(MAGIC) or version < _LONG_MTIME_SINCE or end > len(stream):
        raise CorruptStream("its header is not lzop's")
    return end, flags


def _blocks(payload: bytes, at: int, flags: int) -> Iterator[tuple[int, bytes, int]]:
    """Unpacked length, packed bytes (as long if they are stored) and end of each block."""
    before = 4 * (bool(flags & _ADLER_UNPACKED) + bool(flags & _CRC_UNPACKED))
    following = 4 * (bool(flags & _ADLER_PACKED) + bool(flags & _CRC_PACKED))
    try:
        while unpacked_len := struct.unpack_from(">I", payload, at)[0]:
            (packed_len,) = struct.unpack_from(">I", payload, at + 4)
            at += 8 + before + (following if packed_len < unpacked_len else 0)
            if not 0 < packed_len <= unpacked_len <= BLOCK_LEN or at + packed_len > len(payload):
                raise CorruptStream("a block has an impossible length")
            yield unpacked_len, payload[at : at + packed_len], at + packed_len
            at += packed_len
    except struct.error as error:
        raise CorruptStream("it ends too early") from error


def _block(data: bytes, compress: Callable[[bytes], bytes], flags: int) -> bytes:
    body = compress(data)
    stored = len(body) >= len(data)
    if stored:
        body = data
    head = struct.pack(">II", len(data), len(body))
    for flag, sum_of in ((_ADLER_UNPACKED, zlib.adler32), (_CRC_UNPACKED, zlib.crc32)):
        if flags & flag:
            head += struct.pack(">I", sum_of(data))
    for flag, sum_of in ((_ADLER_PACKED, zlib.adler32), (_CRC_PACKED, zlib.crc32)):
        if flags & flag and not stored:
            head += struct.pack(">I", sum_of(body))
    return head + body


LZO = Codec(_unpack, _candidates, _pack)
"""Blocks by lzallright; LZO1X-999, which lzop -9 uses, only by the program."""
