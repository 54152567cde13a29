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

from vmipatch.image.packing.bounded import INPUT_LEN, MAX_MEMORY_LEN, PIECE_LEN, Collected
from vmipatch.image.packing.codec import Codec, CorruptStream, Packer, Recipe
from vmipatch.image.packing.compression import Compression
from vmipatch.image.packing.program import is_there, run_compressor

_GZIP_HEADER = bytes.fromhex("1f8b 08 00 00000000 02 03")
"""Deflate, no name, no time, best compression, Unix (RFC 1952)."""


class _Unpacker(Protocol):
    """The common part of the decompressors of bz2 and lzma."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Inflater:
    """The same of zlib, which hands back what it had no room for."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length and not self._zlib.unconsumed_tail
        return piece


def _unpack(make: Callable[[], _Unpacker], payload: bytes, limit: int) -> tuple[bytes, int]:
    unpacker, out, at = make(), Collected(limit), 0
    try:
        while not unpacker.eof:
            more = b""
            if unpacker.needs_input:
                if at >= len(payload):
                    raise CorruptStream("it ends too early")
                more = payload[at : at + INPUT_LEN]
                at += len(more)
            out.add(unpacker.decompress(more, PIECE_LEN))
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise CorruptStream(str(error)) from error
    return out.whole(), at - len(unpacker.unused_data)


def _gzip_candidates(stream: bytes) -> Iterable[Recipe]:
    if is_there("gzip"):
        yield Recipe(Compression.GZIP, Packer.PROGRAM, "-n -9")
    yield Recipe(Compression.GZIP, Packer.LIBRARY, "-n -9")


def _gzip_pack(recipe: Recipe, data: bytes) -> bytes:
    if recipe.maker is Packer.PROGRAM:
        return run_compressor("gzip", recipe.options, data)
    packer = zlib.compressobj(9, wbits=-15)
    body = packer.compress(data) + packer.flush()
    return _GZIP_HEADER + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


GZIP = Codec(partial(_unpack, _Inflater), _gzip_candidates, _gzip_pack)
"""zlib unpacks; what GNU gzip packs, zlib does not give bit for bit."""

BZIP2 = Codec(
    partial(_unpack, bz2.BZ2Decompressor),
    lambda _: (Recipe(Compression.BZIP2, Packer.LIBRARY, "-9"),),
    lambda _, data: bz2.compress(data, 9),
)

LZMA = Codec(
    partial(_unpack, lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, MAX_MEMORY_LEN)),
    lambda _: (Recipe(Compression.LZMA, Packer.LIBRARY, "-9"),),
    lambda _, data: lzma.compress(data, lzma.FORMAT_ALONE, preset=9),
)

_XZ_CHECKS = {"none": lzma.CHECK_NONE, "crc32": lzma.CHECK_CRC32, "crc64": lzma.CHECK_CRC64}
_XZ_OPTIONS = re.compile(
    r"--check=(none|crc32|crc64)( --x86)? --lzma2=preset=(\d)(e?),dict=(\d{1,3})MiB", re.ASCII
)
_XZ_BLOCK_AT = 12
_MOST_MIB = 128
"""Of a dictionary: packing takes eleven times as much memory."""
_LZMA2_ID, _X86_ID = 0x21, 0x04


def _xz_candidates(stream: bytes) -> Iterable[Recipe]:
    check, x86, dict_mib = _xz_headers(stream)
    for preset in ("6", "9", "9e", "6e"):
        options = f"--check={check}{' --x86' * x86} --lzma2=preset={preset},dict={dict_mib}MiB"
        yield Recipe(Compression.XZ, Packer.LIBRARY, options)


def _xz_pack(recipe: Recipe, data: bytes) -> bytes:
    match = _XZ_OPTIONS.fullmatch(recipe.options)
    assert match is not None, "recipes with other options are refused (is_known)"
    check, x86, preset, extreme, dict_mib = match.groups()
    level = int(preset) | (lzma.PRESET_EXTREME if extreme else 0)
    filters: list[dict[str, Any]] = [{"id": lzma.FILTER_X86}] if x86 else []
    filters.append({"id": lzma.FILTER_LZMA2, "preset": level, "dict_size": int(dict_mib) << 20})
    return lzma.compress(data, lzma.FORMAT_XZ, check=_XZ_CHECKS[check], filters=filters)


def is_xz_options(options: str) -> bool:
    """Whether a recipe for xz may say so."""
    match = _XZ_OPTIONS.fullmatch(options)
    return match is not None and 0 < int(match[5]) <= _MOST_MIB


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
    dict_mib = (2 | bits & 1) << (bits // 2 + 11) >> 20
    return check, x86, dict_mib if 0 < dict_mib <= _MOST_MIB else 32


XZ = Codec(
    partial(_unpack, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_MEMORY_LEN)),
    _xz_candidates,
    _xz_pack,
)
"""Check, filters and dictionary are read from the stream, the preset is guessed."""
