# SPDX-License-Identifier: MIT
"""Which bytes do kernels put where a call, a jump or a lock prefix may be patched in.

arch/x86/include/asm/nops.h, 32-bit forms of 6.1 first, then those of older processors' tables.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from vmipatch.tables.table import Mask

CALL, JMP, JMP_SHORT, RET, INT3 = 0xE8, 0xE9, 0xEB, 0xC3, 0xCC
LOCK, DS_PREFIX = 0xF0, 0x3E

NOP5 = tuple(
    bytes.fromhex(text)
    for text in ("3e8d742600", "0f1f440000", "6666666690", "9066666690", "908d742600")
)
NOP2 = tuple(bytes.fromhex(text) for text in ("89f6", "6690", "8bff", "9090"))


def any_of(code: npt.NDArray[np.uint8], forms: Iterable[bytes]) -> Mask:
    """Which rows of `code` begin with one of `forms`."""
    found = np.zeros(len(code), dtype=np.bool_)
    for form in forms:
        found |= (code[:, : len(form)] == np.frombuffer(form, np.uint8)).all(axis=1)
    return found
