# SPDX-License-Identifier: MIT
"""How does `lz4 -l` pack? A magic number, then blocks of 8 MiB, each after its packed length.

Source: lib/decompress_unlz4.c of Linux; LZ4 Frame Format Description, "Legacy frame".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from vmipatch.image.packing.bounded import Collected
from vmipatch.image.packing.codec import Codec, CorruptStream, Packer, Recipe, missing_package
from vmipatch.image.packing.compression import LENGTH_LEN, Compression
from vmipatch.image.packing.program import is_there, run_compressor

BLOCK_LEN = 8 << 20
_MAGIC = Compression.LZ4.magic


def _unpack(payload: bytes, limit: int) -> tuple[bytes, int]:
    try:
        from lz4.block import LZ4BlockError, decompress
    except ImportError as error:
        raise missing_package(Compression.LZ4, "lz4") from error
    at, end = len(_MAGIC), len(payload) - LENGTH_LEN
    out = Collected(limit)
    while at < end:
        (packed_len,) = struct.unpack_from("<I", payload, at)
        at += 4
        if not packed_len or at + packed_len > end:
            raise CorruptStream("a block has an impossible length")
        try:
            block = decompress(payload[at : at + packed_len], BLOCK_LEN)
        except LZ4BlockError as error:
            raise CorruptStream(f"a block does not unpack: {error}") from error
        out.add(block)
        at += packed_len
    return out.whole(), at


def _candidates(stream: bytes) -> Iterable[Recipe]:
    yield Recipe(Compression.LZ4, Packer.LIBRARY, "-l -9")
    if is_there("lz4"):
        yield Recipe(Compression.LZ4, Packer.PROGRAM, "-l -9")


def _pack(recipe: Recipe, data: bytes) -> bytes:
    if recipe.maker is Packer.PROGRAM:
        return run_compressor("lz4", f"{recipe.options} - -", data)
    try:
        from lz4.block import compress
    except ImportError as error:
        raise missing_package(Compression.LZ4, "lz4") from error
    out = [_MAGIC]
    for at in range(0, len(data), BLOCK_LEN):
        body = compress(
            data[at : at + BLOCK_LEN],
            mode="high_compression",
            compression=9,
            store_size=False,
        )
        out += [struct.pack("<I", len(body)), body]
    return b"".join(out)


LZ4 = Codec(_unpack, _candidates, _pack)
"""A legacy frame has no end mark: it ends before the appended length."""
