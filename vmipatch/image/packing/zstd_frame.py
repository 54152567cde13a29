# SPDX-License-Identifier: MIT
"""How does `zstd -22 --ultra` pack? One frame of unknown length, with a checksum.

Source: scripts/Makefile.lib of Linux (zstd22), RFC 8878.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmipatch.image.packing.bounded import Collected
from vmipatch.image.packing.codec import Codec, CorruptStream, Packer, Recipe, missing_package
from vmipatch.image.packing.compression import Compression
from vmipatch.image.packing.program import is_there, run_compressor

KNOWN_LEN = "--stream-size"
"""The option of a frame that begins with the length of what is in it, as that of a file does."""


def _unpack(payload: bytes, limit: int) -> tuple[bytes, int]:
    try:
        from zstandard import ZstdDecompressor, ZstdError
    except ImportError as error:
        raise missing_package(Compression.ZSTD, "zstandard") from error
    unpacker = ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    out, at = Collected(limit), 0
    try:
        while not unpacker.eof and at < len(payload):
            out.add(unpacker.decompress(payload[at : at + _STEP_LEN]))
            at += _STEP_LEN
    except ZstdError as error:
        raise CorruptStream(str(error)) from error
    if not unpacker.eof:
        raise CorruptStream("it ends too early")
    return out.whole(), min(at, len(payload)) - len(unpacker.unused_data)


_STEP_LEN = 1 << 10
"""Bytes given at a time: it gives all that they hold, up to 128 KiB for each four of them."""


def _candidates(stream: bytes) -> Iterable[Recipe]:
    yield Recipe(Compression.ZSTD, Packer.LIBRARY, "-22 --ultra")
    if is_there("zstd"):
        yield Recipe(Compression.ZSTD, Packer.PROGRAM, "-22 --ultra")


def _pack(recipe: Recipe, data: bytes) -> bytes:
    if recipe.maker is Packer.PROGRAM:
        known = recipe.options.replace(KNOWN_LEN, f"{KNOWN_LEN}={len(data)}")
        return run_compressor("zstd", f"-q {known}", data)
    try:
        from zstandard import ZstdCompressionParameters, ZstdCompressor
    except ImportError as error:
        raise missing_package(Compression.ZSTD, "zstandard") from error
    level = int(recipe.options.split()[0].lstrip("-"))
    if is_known := KNOWN_LEN in recipe.options:
        parameters = ZstdCompressionParameters.from_level(
            level, source_size=len(data), write_checksum=True, write_content_size=True
        )
    else:
        parameters = ZstdCompressionParameters.from_level(
            level, write_checksum=True, write_content_size=False
        )
    packer = ZstdCompressor(compression_params=parameters)
    if is_known:
        return bytes(packer.compress(data))
    stream = packer.compressobj()
    return stream.compress(data) + stream.flush()


ZSTD = Codec(_unpack, _candidates, _pack)
"""Each release of the library packs a little differently."""
