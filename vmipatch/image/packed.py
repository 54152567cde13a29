# SPDX-License-Identifier: MIT
"""How is a module packed, and how is another one packed alike?

`make modules_install` of Linux packs each module with a program of its own (scripts/
Makefile.modinst): gzip -n, xz with CRC32 and a dictionary of 1 MiB, zstd as it comes.
"""

from __future__ import annotations

from vmipatch.errors import MalformedImage
from vmipatch.image.packing.codec import CorruptStream, Maker, Recipe
from vmipatch.image.packing.compression import Compression
from vmipatch.image.packing.recipe import CODECS
from vmipatch.image.packing.recipe import pack as pack_by

MAX_UNPACKED_LEN = 1 << 28
"""No module is a quarter of this; a small file that unpacks to more is not one."""
OPTIONS = {
    Compression.GZIP: "-n -9",
    Compression.XZ: "--check=crc32 --lzma2=preset=6,dict=1MiB",
    Compression.ZSTD: "-3",
}


def packing_of(data: bytes) -> Compression:
    """How `data` is packed, as its first bytes say."""
    found = Compression.of(data)
    return found if found in OPTIONS else Compression.NONE


def unpack(data: bytes, name: str) -> bytes:
    """What is in a packed file; `data` itself if it is not packed.

    Raises MalformedImage, and EnvironmentProblem without the library.
    """
    packing = packing_of(data)
    if packing is Compression.NONE:
        return data
    try:
        unpacked, _ = CODECS[packing].unpack(data, MAX_UNPACKED_LEN)
    except CorruptStream as error:
        raise _damaged(name, packing, str(error)) from error
    if len(unpacked) > MAX_UNPACKED_LEN:
        raise _damaged(name, packing, "it unpacks to more than a module is long")
    return unpacked


def pack(data: bytes, packing: Compression) -> bytes:
    """`data` packed, the same bytes each time. Raises EnvironmentProblem without the library."""
    if packing is Compression.NONE:
        return data
    return pack_by(Recipe(packing, Maker.LIBRARY, OPTIONS[packing]), data)


def _damaged(name: str, packing: Compression, why: str) -> MalformedImage:
    return MalformedImage(
        f"the {packing.label} stream is damaged: {why}", file=name, place="offset 0x0"
    )
