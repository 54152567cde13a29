# SPDX-License-Identifier: MIT
"""Where does the code call a function? Near calls, found by their bytes.

No instruction is decoded: that four bytes after an `e8` hold one distance by chance is of no
weight where many calls are asked for what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vmipatch.tables.source import ImageSource

CALL, CALL_LEN = 0xE8, 5


def near_calls(image: ImageSource, function_va: int) -> Iterator[int]:
    """Addresses of the calls of `function_va`, ascending in each section."""
    for section in image.executable_sections:
        octets = np.frombuffer(image.read(section.va, section.size), np.uint8)
        at = np.flatnonzero(octets[: max(len(octets) - CALL_LEN + 1, 0)] == CALL)
        distance = octets[at[:, None] + np.arange(1, CALL_LEN)].reshape(-1).view("<i4")
        at_va = section.va + at.astype(np.int64)
        target = (at_va + CALL_LEN + distance.astype(np.int64)) & 0xFFFFFFFF
        yield from at_va[target == function_va].tolist()
