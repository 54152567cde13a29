# SPDX-License-Identifier: MIT
"""What has a compression to offer, and how is a way to pack written down?"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vmipatch.errors import EnvironmentProblem
from vmipatch.image.packing.compression import Compression


class CorruptStream(Exception):
    """A stream that its library refuses; the message says why."""


class Packer(enum.Enum):
    """Who packs: two makers give different bytes for the same options."""

    LIBRARY = "library"
    PROGRAM = "program"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to pack that gives the same bytes each time."""

    compression: Compression
    maker: Packer
    options: str
    """In the words of the compression's own program."""
    header: bytes = b""
    """The stream's first bytes where those are not the compressor's choice (lzop: time, mode)."""

    def __str__(self) -> str:
        return f"{self.compression.label} {self.options} ({self.maker.value})"


@dataclass(frozen=True, slots=True)
class Codec:
    """One compression. A stream is what its program writes, without the appended length."""

    unpack: Callable[[bytes, int], tuple[bytes, int]]
    """(payload, limit) -> what the stream at the front of the payload holds, length of the stream.

    Raises CorruptStream, also when more than `limit` bytes come out, and EnvironmentProblem without
    the library.
    """
    candidates: Callable[[bytes], Iterable[Recipe]]
    """(stream) -> recipes that may have made it, the likeliest first; never none."""
    pack: Callable[[Recipe, bytes], bytes]
    """(recipe, data) -> the stream. Raises EnvironmentProblem without the library or program."""


def missing_package(compression: Compression, package: str) -> EnvironmentProblem:
    """The error for a library that is not installed."""
    label = compression.label
    return EnvironmentProblem(
        f"kernels packed with {label} need the Python package {package}, which is not installed",
        hint=f"pip install {package}",
    )
