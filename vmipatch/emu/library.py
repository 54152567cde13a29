# SPDX-License-Identifier: MIT
"""May the code of a loaded library be changed? Only if every byte that matters is the known one.

A change replaces the beginning of some instructions by a jump to code of ours, a *detour*. All
places are compared before the first is written, and nothing is written where one differs, where
memory near the library is refused, or where the system does not let its code be changed. What is
changed is this process's copy of the code: the file stays as it is, children get the changes with
the rest of their memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vmipatch.emu.state import read_own_memory

JUMP_LEN: Final = 5
"""Of `jmp rel32`."""
_NEAR_LEN: Final = 1 << 31
_STEP_LEN: Final = 1 << 20
_TRIES: Final = 1000
_MAP_FIXED_NOREPLACE: Final = 0x100000  # Linux 4.17, asm-generic/mman-common.h
_MAP_FAILED: Final = (1 << 64) - 1
_PROT_ALL: Final = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
_PROT_CODE: Final = mmap.PROT_READ | mmap.PROT_EXEC
_NOP: Final = b"\x90"

FindSymbol = Callable[[str], int | None]
"""Gives the host address of an exported symbol, None if there is no such symbol."""


@dataclass(frozen=True, slots=True)
class Place:
    """Code that a change relies on."""

    symbol: str
    length: int
    """Bytes from the symbol on; they may include local functions that follow it."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Detour:
    """Instructions that are replaced by a jump to other code."""

    symbol: str
    off: int
    old: bytes
    """Whole instructions that the jump replaces, JUMP_LEN bytes or more."""
    code: bytes
    """Target of the jump. It finds the addresses of `targets`, 8 bytes each, at the next multiple
    of 8 after itself."""
    targets: tuple[tuple[str, int], ...]
    """Symbol and offset of each address that the code uses."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Detours that are made together or not at all."""

    places: tuple[Place, ...]
    detours: tuple[Detour, ...]
    """In the order in which they are written: each is harmless without the next."""


def apply(changes: Changes, find: FindSymbol) -> str:
    """Make the detours; returns why none was made, or an empty string."""
    symbols = {place.symbol for place in changes.places}
    symbols |= {name for detour in changes.detours for name, _ in detour.targets}
    symbols |= {detour.symbol for detour in changes.detours}
    addresses: dict[str, int] = {}
    for symbol in sorted(symbols):
        va = find(symbol)
        if va is None:
            return f"it has no {symbol}"
        addresses[symbol] = va
    for place in changes.places:
        found = read_own_memory(addresses[place.symbol], place.length)
        if hashlib.sha256(found).hexdigest() != place.sha256:
            return f"its {place.symbol} is not the one that was measured"
    sites = [addresses[each.symbol] + each.off for each in changes.detours]
    for va, detour in zip(sites, changes.detours, strict=True):
        if read_own_memory(va, len(detour.old)) != detour.old:
            return f"its {detour.symbol} is not the one that was measured"
    return _write(changes.detours, sites, addresses)


def _write(detours: Sequence[Detour], sites: Sequence[int], addresses: dict[str, int]) -> str:
    blocks = [_block(each, addresses) for each in detours]
    with _writable(sites, [len(each.old) for each in detours]) as is_writable:
        if not is_writable:
            return "the system does not let its code be changed"
        page_va = _page_near(sites, sum(map(len, blocks)))
        if page_va is None:
            return "there is no memory for code near it"
        ctypes.memmove(page_va, b"".join(blocks), sum(map(len, blocks)))
        if not _protect(page_va, sum(map(len, blocks)), _PROT_CODE):
            return "the system refuses memory for generated code"
        block_va = page_va
        for site_va, detour, block in zip(sites, detours, blocks, strict=True):
            jump = b"\xe9" + struct.pack("<i", block_va - (site_va + JUMP_LEN))
            ctypes.memmove(site_va, jump.ljust(len(detour.old), _NOP), len(detour.old))
            block_va += len(block)
    return ""


def _block(detour: Detour, addresses: dict[str, int]) -> bytes:
    """The code of a detour and its addresses, to a multiple of 8 bytes."""
    code = detour.code + bytes(-len(detour.code) % 8)
    return code + b"".join(
        struct.pack("<Q", addresses[symbol] + off) for symbol, off in detour.targets
    )


@contextlib.contextmanager
def _writable(sites: Sequence[int], lengths: Sequence[int]) -> Iterator[bool]:
    """Code at these addresses can be written meanwhile, all of it or none."""
    opened: list[tuple[int, int]] = []
    try:
        for va, length in zip(sites, lengths, strict=True):
            if not _protect(va, length, _PROT_ALL):
                break
            opened.append((va, length))
        yield len(opened) == len(sites)
    finally:
        for va, length in opened:
            _protect(va, length, _PROT_CODE)


def _protect(va: int, length: int, rights: int) -> bool:
    start_va = va & -mmap.PAGESIZE
    return not _libc().mprotect(start_va, va + length - start_va, rights)


def _page_near(sites: Sequence[int], length: int) -> int | None:
    """Fresh memory, to be read and written, that a jump from each site reaches."""
    libc = _libc()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
    rights = mmap.PROT_READ | mmap.PROT_WRITE
    low, high = min(sites) & -_STEP_LEN, max(sites) & -_STEP_LEN
    for i in range(1, _TRIES):
        for hint in (low - i * _STEP_LEN, high + i * _STEP_LEN):
            reach = max(abs(hint - min(sites)), abs(hint + length - max(sites))) + _STEP_LEN
            if hint <= 0 or reach >= _NEAR_LEN:
                continue
            va = libc.mmap(hint, length, rights, flags, -1, 0)
            if va == hint:
                return hint
            if va != _MAP_FAILED:  # an older Linux takes the address for a wish
                libc.munmap(va, length)
    return None


def _libc() -> Any:
    libc = ctypes.CDLL(None)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    libc.mmap.restype = pointer
    libc.mmap.argtypes = (pointer, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.munmap.argtypes = (pointer, size)
    libc.mprotect.argtypes = (pointer, size, ctypes.c_int)
    return libc
