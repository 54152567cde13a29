# SPDX-License-Identifier: MIT
"""The compressions that Python brings along: gzip, bzip2, lzma, xz.

Source of the options: scripts/Makefile.lib and scripts/xz_wrap.sh of Linux.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from vmipatch.image.packing.codec import Codec, CorruptStream, Maker, Recipe
from vmipatch.image.packing.compression import Compression
from vmipatch.image.packing.program import is_there, run_compressor

_GZIP_HEADER = bytes.fromhex("1f8b 08 00 00000000 02 03")
"""Deflate, no name, no time, best compression, Unix (RFC 1952)."""


class _Unpacker(Protocol):
    """What the decompressors of zlib, bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _unpack(make: Callable[[], _Unpacker], payload: bytes, limit: int) -> tuple[bytes, int]:
    unpacker = make()
    try:
        unpacked = unpacker.decompress(payload, limit + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise CorruptStream(str(error)) from error
    if not unpacker.eof and len(unpacked) <= limit:
        raise CorruptStream("it ends too early")
    return unpacked, len(payload) - len(unpacker.unused_data)


def _gzip_candidates(stream: bytes) -> Iterable[Recipe]:
    if is_there("gzip"):
        yield Recipe(Compression.GZIP, Maker.PROGRAM, "-n -9")
    yield Recipe(Compression.GZIP, Maker.LIBRARY, "-n -9")


def _gzip_pack(recipe: Recipe, data: bytes) -> bytes:
    if recipe.maker is Maker.PROGRAM:
        return run_compressor("gzip", recipe.options, data)
    packer = zlib.compressobj(9, wbits=-15)
    body = packer.compress(data) + packer.flush()
    return _GZIP_HEADER + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


GZIP = Codec(partial(_unpack, lambda: zlib.decompressobj(wbits=31)), _gzip_candidates, _gzip_pack)
"""zlib unpacks; what GNU gzip packs, zlib does not give bit for bit."""

BZIP2 = Codec(
    partial(_unpack, bz2.BZ2Decompressor),
    lambda _: (Recipe(Compression.BZIP2, Maker.LIBRARY, "-9"),),
    lambda _, data: bz2.compress(data, 9),
)

LZMA = Codec(
    partial(_unpack, lambda: lzma.LZMADecompressor(format=lzma.FORMAT_ALONE)),
    lambda _: (Recipe(Compression.LZMA, Maker.LIBRARY, "-9"),),
    lambda _, data: lzma.compress(data, lzma.FORMAT_ALONE, preset=9),
)

_XZ_CHECKS = {"none": lzma.CHECK_NONE, "crc32": lzma.CHECK_CRC32, "crc64": lzma.CHECK_CRC64}
_XZ_OPTIONS = re.compile(r"--check=(\w+)( --x86)? --lzma2=preset=(\d)(e?),dict=(\d+)MiB")
_XZ_BLOCK_AT = 12
_LZMA2_ID, _X86_ID = 0x21, 0x04


def _xz_candidates(stream: bytes) -> Iterable[Recipe]:
    check, x86, dict_mib = _xz_headers(stream)
    for preset in ("6", "9", "9e", "6e"):
        options = f"--check={check}{' --x86' * x86} --lzma2=preset={preset},dict={dict_mib}MiB"
        yield Recipe(Compression.XZ, Maker.LIBRARY, options)


def _xz_pack(recipe: Recipe, data: bytes) -> bytes:
    match = _XZ_OPTIONS.fullmatch(recipe.options)
    assert match, recipe.options
    check, x86, preset, extreme, dict_mib = match.groups()
    level = int(preset) | (lzma.PRESET_EXTREME if extreme else 0)
    filters: list[dict[str, Any]] = [{"id": lzma.FILTER_X86}] if x86 else []
    filters.append({"id": lzma.FILTER_LZMA2, "preset": level, "dict_size": int(dict_mib) << 20})
    return lzma.compress(data, lzma.FORMAT_XZ, check=_XZ_CHECKS[check], filters=filters)


def _xz_headers(stream: bytes) -> tuple[str, bool, int]:
    """Check, whether the x86 filter was used, MiB of dictionary.

    What another build would hardly choose becomes what Linux's script chooses. Source: The .xz
    file format 1.1.0, sections 2.1.1.2 (flags), 3.1 (block header), 5.3.1 (LZMA2 dictionary).
    """
    number = stream[7] & 15
    check = next((name for name, value in _XZ_CHECKS.items() if value == number), "crc32")
    flags = stream[_XZ_BLOCK_AT + 1]
    at = _XZ_BLOCK_AT + 2
    x86 = flags & 3 == 1 and stream[at] == _X86_ID and stream[at + 1] == 0
    at += 2 * x86
    if flags & 0xC0 or stream[at : at + 2] != bytes((_LZMA2_ID, 1)):
        return check, x86, 32
    bits = stream[at + 2]
    dict_len = (2 | bits & 1) << (bits // 2 + 11)
    return check, x86, dict_len >> 20 or 32


XZ = Codec(
    partial(_unpack, lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ)), _xz_candidates, _xz_pack
)
"""Check, filters and dictionary are read from the stream, the preset is guessed."""
