# SPDX-License-Identifier: MIT
"""The file that should be there, while it grows, and the row of each of its bytes."""

from __future__ import annotations

import numpy as np

from vmipatch.verify.static.reproduce.rows import NUMBERS, Row
from vmipatch.verify.static.side import I64, U8, WORD


class Canvas:
    """Bytes and rows, in parallel; what is written later stands over what was written before."""

    def __init__(self, length: int) -> None:
        self.octets: U8 = np.zeros(length, np.uint8)
        self.rows: U8 = np.zeros(length, np.uint8)

    def put(self, off: int, data: bytes | U8, row: Row) -> None:
        """Write `data` at `off`; what reaches beyond the end of the file is not written."""
        piece = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        piece = piece[: max(len(self.octets) - off, 0)]
        self.octets[off : off + len(piece)] = piece
        self.rows[off : off + len(piece)] = NUMBERS[row]

    def put_rows(self, off: int, rows: U8) -> None:
        """Say by what the bytes from `off` on are explained, each for itself."""
        kept = rows[: max(len(self.rows) - off, 0)]
        self.rows[off : off + len(kept)] = kept

    def add_words(self, offs: I64, summands: I64) -> None:
        """Add to words that are there already; their rows stay."""
        where = offs[:, None] + WORD
        words = np.ascontiguousarray(self.octets[where]).view("<u4").ravel().astype(np.int64)
        words = ((words + summands) & 0xFFFFFFFF).astype("<u4")
        self.octets[where] = words.view(np.uint8).reshape(-1, 4)

    def put_words(self, offs: I64, values: I64, row: Row, width: int = 4) -> None:
        """Write the lowest `width` bytes of each value at its offset."""
        inside = (offs >= 0) & (offs + width <= len(self.octets))
        where = offs[inside, None] + WORD[:width]
        words = np.ascontiguousarray((values[inside] & 0xFFFFFFFF).astype("<u4"))
        self.octets[where] = words.view(np.uint8).reshape(-1, 4)[:, :width]
        self.rows[where] = NUMBERS[row]
