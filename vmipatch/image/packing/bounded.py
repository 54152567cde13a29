# SPDX-License-Identifier: MIT
"""How does unpacking stay small? Output is collected piece by piece, up to a limit.

A few kilobytes may unpack to gigabytes. What comes out is held once: neither joined from pieces nor
copied at the end, and of a stream that goes on after the limit nothing more is unpacked.
"""

from __future__ import annotations

import io

from vmipatch.image.packing.codec import CorruptStream

PIECE_LEN = 1 << 20
"""Bytes that a decompressor gives at a time, where it can be told."""
INPUT_LEN = 1 << 16
"""Bytes that it is given at a time."""
MAX_MEMORY_LEN = 144 << 20
"""Memory that a decompressor may take: a dictionary of 128 MiB, the largest that Linux's builds
use (scripts/xz_wrap.sh, zstd -22 --ultra), and what goes with it."""


class Collected:
    """The output up to now."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._out = io.BytesIO()

    def add(self, piece: bytes) -> None:
        """Take a piece. Raises CorruptStream if it is more than the limit then."""
        if self._out.tell() + len(piece) > self._limit:
            mib = self._limit >> 20
            raise CorruptStream(f"it unpacks to more than {mib} MiB, more than any has")
        self._out.write(piece)

    def whole(self) -> bytes:
        """All of it; no copy is made."""
        return self._out.getvalue()
