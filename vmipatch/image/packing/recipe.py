# SPDX-License-Identifier: MIT
"""How was a stream made? Found by trial: what gives it back bit for bit made it."""

from __future__ import annotations

import re

from vmipatch.image.packing.codec import Codec, Packer, Recipe
from vmipatch.image.packing.compression import Compression
from vmipatch.image.packing.lz4_legacy import LZ4
from vmipatch.image.packing.lzop import LZO, is_header
from vmipatch.image.packing.stdlib import BZIP2, GZIP, LZMA, XZ, is_xz_options
from vmipatch.image.packing.zstd_frame import ZSTD

CODECS: dict[Compression, Codec] = {
    Compression.GZIP: GZIP,
    Compression.XZ: XZ,
    Compression.BZIP2: BZIP2,
    Compression.LZMA: LZMA,
    Compression.LZO: LZO,
    Compression.LZ4: LZ4,
    Compression.ZSTD: ZSTD,
}

AS_IT_IS = Recipe(Compression.NONE, Packer.LIBRARY, "")
"""Not packed."""


_OPTIONS = {
    Compression.NONE: "",
    Compression.GZIP: "-n( -9)?",
    Compression.BZIP2: "-9",
    Compression.LZMA: "-9",
    Compression.LZO: "-9",
    Compression.LZ4: "-l -9",
    Compression.ZSTD: r"-([1-9]|1\d|2[0-2])( --ultra)?( --stream-size)?",
}
"""The options of recipes. One may come from a file, and they go to a program."""


def is_known(recipe: Recipe) -> bool:
    """Whether the recipe is one that vmipatch writes down, with nothing else in its options."""
    if recipe.header and not (recipe.compression is Compression.LZO and is_header(recipe.header)):
        return False
    if recipe.compression is Compression.LZO and not recipe.header:
        return False
    if recipe.compression is Compression.XZ:
        return recipe.maker is Packer.LIBRARY and is_xz_options(recipe.options)
    return re.fullmatch(_OPTIONS[recipe.compression], recipe.options, re.ASCII) is not None


def find_recipe(compression: Compression, stream: bytes, unpacked: bytes) -> Recipe | None:
    """The recipe with which `unpacked` becomes `stream` again, or None if none does.

    `stream` ends where its format says, without the length that Linux's build appends
    (`Payload.stream`). Costs one compression for each candidate: 15 s for a distribution's xz.
    Raises EnvironmentProblem if the library of the compression is not installed.
    """
    if compression is Compression.NONE:
        return AS_IT_IS
    codec = CODECS[compression]
    candidates = codec.candidates(stream)
    return next((r for r in candidates if codec.pack(r, unpacked) == stream), None)


def candidates(compression: Compression, stream: bytes) -> tuple[Recipe, ...]:
    """All recipes that may have made `stream`; its own parameters are among what they are by.

    Raises CorruptStream if its header is damaged.
    """
    if compression is Compression.NONE:
        return (AS_IT_IS,)
    return tuple(CODECS[compression].candidates(stream))


def likely_recipe(compression: Compression, stream: bytes) -> Recipe:
    """The recipe to pack with when none gives `stream` back: the first candidate."""
    if compression is Compression.NONE:
        return AS_IT_IS
    return next(iter(CODECS[compression].candidates(stream)))


def pack(recipe: Recipe, data: bytes) -> bytes:
    """The stream for `data`. Raises EnvironmentProblem without the library or program."""
    if recipe.compression is Compression.NONE:
        return data
    return CODECS[recipe.compression].pack(recipe, data)
