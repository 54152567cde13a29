# SPDX-License-Identifier: MIT
"""Which pages of a guest have changed? Its memory at some time, compared without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final

from vmipatch.emu.processor.memory import PAGE_LEN, GuestMemory

_CHUNK_LEN: Final = 16 * PAGE_LEN
_COMPARE: Final = ctypes.CDLL(None).memcmp
_COMPARE.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Saved:
    """All memory of a guest at some time."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.octets = bytes(memory.octets)
        self._va = ctypes.cast(ctypes.c_char_p(self.octets), ctypes.c_void_p).value or 0

    def is_in(self, pa: int, end_pa: int) -> bool:
        """Whether [pa, end_pa) is still as it was: without a copy."""
        return not _COMPARE(self._memory.host_va + pa, self._va + pa, end_pa - pa)

    def changed_pages(self, pa: int, end_pa: int) -> Iterator[int]:
        """Addresses of the pages in [pa, end_pa), multiples of 64 KiB, that are not."""
        for chunk in range(pa, end_pa, _CHUNK_LEN):
            if not self.is_in(chunk, chunk + _CHUNK_LEN):
                for page in range(chunk, chunk + _CHUNK_LEN, PAGE_LEN):
                    if not self.is_in(page, page + PAGE_LEN):
                        yield page
