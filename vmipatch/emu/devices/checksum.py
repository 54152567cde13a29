# SPDX-License-Identifier: MIT
"""What makes the bytes of a table of the BIOS add up to 0? One of them, at a place of its own."""

from __future__ import annotations


def with_checksum(table: bytes, place: int) -> bytes:
    """`table`, its byte at `place` chosen so that the sum of all bytes is 0 modulo 256."""
    kept = table[:place] + b"\0" + table[place + 1 :]
    return kept[:place] + bytes([-sum(kept) & 0xFF]) + kept[place + 1 :]
