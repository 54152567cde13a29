# SPDX-License-Identifier: MIT
"""Which bytes fill a place of a given length?"""

from __future__ import annotations

PADS = tuple(
    bytes.fromhex(code)
    for code in ("90", "89f6", "8d7600", "8d742600", "8db600000000", "8db42600000000")
)
"""The padding of gas for i386, by length; the 0f 1f forms do not exist on every i386
processor."""
INT3 = b"\xcc"


def nops(length: int) -> bytes:
    """`length` bytes of nops: the longest that fits, again and again."""
    result = b""
    while len(result) < length:
        result += max((pad for pad in PADS if len(pad) <= length - len(result)), key=len)
    return result


def refilled(was: bytes, length: int) -> bytes:
    """The filler of `length` bytes that stands where `was` stood: int3 for int3, nops for nops."""
    return INT3 * length if was[:1] == INT3 else nops(length)
