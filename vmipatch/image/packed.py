# SPDX-License-Identifier: MIT
"""How is a module packed, and how is another one packed alike?

`make modules_install` of Linux packs each module with a program of its own (scripts/
Makefile.modinst): gzip -n, xz with CRC32 and a dictionary of 1 MiB, zstd as it comes. Others do it
in their way, which is found by trial.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmipatch.errors import MalformedImage, NotSupported
from vmipatch.image.packing.codec import CorruptStream, Packer, Recipe
from vmipatch.image.packing.compression import Compression
from vmipatch.image.packing.program import is_there
from vmipatch.image.packing.recipe import AS_IT_IS, CODECS
from vmipatch.image.packing.recipe import pack as pack_by
from vmipatch.image.packing.zstd_frame import KNOWN_LEN
from vmipatch.limits import Limit

MAX_UNPACKED_LEN = 224 << 20
"""No module has a quarter of this; a small file that unpacks to more is not one."""
OPTIONS = {
    Compression.GZIP: "-n -9",
    Compression.XZ: "--check=crc32 --lzma2=preset=6,dict=1MiB",
    Compression.ZSTD: "-3",
}


PROGRAMS = {Compression.GZIP: "-n", Compression.ZSTD: f"-3 {KNOWN_LEN}"}
"""The options that `modules_install` gives gzip and zstd; no library gives the same bytes."""


def packing_of(data: bytes) -> Compression:
    """How `data` is packed, as its first bytes say."""
    found = Compression.of(data)
    return found if found in OPTIONS else Compression.NONE


def unpack(data: bytes, name: str) -> bytes:
    """The contents of a packed file; `data` itself if it is not packed.

    Raises MalformedImage, NotSupported if anything but padding follows the stream, and
    EnvironmentProblem without the library.
    """
    packing = packing_of(data)
    if packing is Compression.NONE:
        return data
    try:
        unpacked, length = CODECS[packing].unpack(data, MAX_UNPACKED_LEN)
    except CorruptStream as error:
        raise _damaged(name, packing, str(error)) from error
    after = data[length:]
    if after and not (packing is Compression.XZ and not len(after) % 4 and not any(after)):
        message = f"{len(after)} bytes follow the {packing.label} stream"
        raise NotSupported(Limit.AFTER_STREAM, message, file=name, place=f"offset {length:#x}")
    return unpacked


def recipe_of(stream: bytes, unpacked: bytes) -> Recipe | None:
    """The recipe with which `unpacked` becomes the file `stream` again, None if it is unknown.

    Costs one compression for each that is tried.
    """
    packing = packing_of(stream)
    if packing is Compression.NONE:
        return AS_IT_IS
    candidates = [*_by_program(packing), usual(packing), *CODECS[packing].candidates(stream)]
    return next((r for r in candidates if pack_by(r, unpacked) == stream), None)


def usual(packing: Compression) -> Recipe:
    """How to pack where it is not known how it was packed."""
    if packing is Compression.NONE:
        return AS_IT_IS
    return Recipe(packing, Packer.LIBRARY, OPTIONS[packing])


def pack(data: bytes, recipe: Recipe) -> bytes:
    """`data` packed, the same bytes each time. Raises EnvironmentProblem without the packer."""
    return pack_by(recipe, data)


def _by_program(packing: Compression) -> Iterator[Recipe]:
    if packing in PROGRAMS and is_there(packing.label):
        yield Recipe(packing, Packer.PROGRAM, PROGRAMS[packing])


def _damaged(name: str, packing: Compression, why: str) -> MalformedImage:
    return MalformedImage(
        f"the {packing.label} stream is damaged: {why}", file=name, place="offset 0x0"
    )
