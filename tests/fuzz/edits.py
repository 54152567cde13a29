# SPDX-License-Identifier: MIT
"""How is a file changed? At fields that its format gives a meaning, by values at edges."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

Edit = tuple[int, bytes]
"""Offset, and what is written there."""

EDGES = (0, 1, 2, 3, 7, 8, 0xFF, 0x1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xC1000000, 0xFFF1)
ELF_FIELDS = (16, 18, 24, 28, 32, 36, 40, 42, 44, 46, 48, 50)
SETUP_FIELDS = (0x1F1, 0x1F4, 0x202, 0x206, 0x20C, 0x211, 0x214, 0x218, 0x230, 0x248, 0x24C, 0x258,
                0x260, 0x264)  # fmt: skip
MOST = 4


def edits(data: bytes, rng: random.Random) -> list[Edit]:
    """One to a few changes of `data`, near fields of its headers and tables."""
    return [_edit(data, rng) for _ in range(rng.randrange(1, MOST + 1))]


def applied(data: bytes, changes: Sequence[Edit]) -> bytes:
    """The file with these changes."""
    result = bytearray(data)
    for at, octets in changes:
        result[at : at + len(octets)] = octets[: max(len(result) - at, 0)]
    return bytes(result)


def _edit(data: bytes, rng: random.Random) -> Edit:
    at = rng.choice(_places(data, rng))
    width = rng.choice((1, 2, 4, 4))
    old = int.from_bytes(data[at : at + width], "little")
    flipped = old ^ 1 << rng.randrange(32)
    near = old + rng.randrange(-16, 17)
    value = rng.choice((rng.choice(EDGES), rng.getrandbits(32), near, flipped))
    return at, (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")


def _places(data: bytes, rng: random.Random) -> list[int]:
    """Where fields are: of headers if it has any, and a few places anywhere."""
    anywhere = [rng.randrange(len(data)) for _ in range(4)]
    if data[:4] == b"\x7fELF":
        phoff, shoff = struct.unpack_from("<II", data, 28)
        phs, _, shs = struct.unpack_from("<HHH", data, 44)
        section = shoff + 40 * rng.randrange(max(shs, 1)) + 4 * rng.randrange(10)
        segment = phoff + 32 * rng.randrange(max(phs, 1)) + 4 * rng.randrange(8)
        content = _content(data, shoff, shs, rng)
        return [rng.choice(ELF_FIELDS), section, section, segment, content, *anywhere]
    if data[0x202:0x206] == b"HdrS":
        return [rng.choice(SETUP_FIELDS), *anywhere[:1]]
    return [rng.randrange(min(40, len(data))), *anywhere[:1]]


def _content(data: bytes, shoff: int, count: int, rng: random.Random) -> int:
    """A word in a section: an entry of a symbol table, a relocation, a table of the kernel."""
    off, size = map(
        int, struct.unpack_from("<II", data, shoff + 40 * rng.randrange(max(count, 1)) + 16)
    )
    return min(off + rng.randrange(max(size, 1)), len(data) - 1)
