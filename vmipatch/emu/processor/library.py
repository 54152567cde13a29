# SPDX-License-Identifier: MIT
"""May the code of a loaded library be changed? Only if every byte that matters is the known one.

A change replaces some instructions by others of the same length, an *edit*, or by a jump to code of
ours, a *detour*; or it lets a constant pointer to a function point to code of ours. All places are
compared before the first is written, and nothing is written where one differs, where memory near
the library is refused, or where the system does not let its code be changed. What is changed is
this process's copy: the file stays as it is, and children get the changes with the rest of the
process's memory.
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

from vmipatch.emu.processor.state import read_own_memory

JUMP_LEN: Final = 5
"""Of `jmp rel32`."""
POINTER_LEN: Final = 8
_NEAR_LEN: Final = 1 << 31
_STEP_LEN: Final = 1 << 20
_TRIES: Final = 1000
_MAP_FIXED_NOREPLACE: Final = 0x100000  # Linux 4.17, asm-generic/mman-common.h
_MAP_FAILED: Final = (1 << 64) - 1
_PROT_ALL: Final = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
_PROT_DATA: Final = mmap.PROT_READ | mmap.PROT_WRITE
_PROT_CODE: Final = mmap.PROT_READ | mmap.PROT_EXEC
_NOP: Final = b"\x90"

FindSymbol = Callable[[str], int | None]
"""Gives the host address of an exported symbol, None if there is no such symbol."""


@dataclass(frozen=True, slots=True)
class LibraryPlace:
    """Code that a change relies on."""

    symbol: str
    length: int
    """Bytes from the symbol on; they may include local functions that follow it."""
    sha256: str
    off: int = 0
    """From the symbol to the first byte; below zero for a local function before it."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Instructions that are replaced by as many bytes."""

    symbol: str
    off: int
    old: bytes
    new: bytes


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
class Pointer:
    """A constant pointer to an exported function, which is let point to other code."""

    symbol: str
    off: int
    """From the symbol, of code, to the pointer in the data."""
    function: str
    code: bytes
    """As in Detour."""
    targets: tuple[tuple[str, int], ...]


Change = Edit | Pointer | Detour


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes that are made together or not at all."""

    places: tuple[LibraryPlace, ...]
    detours: tuple[Detour, ...]
    """In the order in which they are written: each is harmless without the next."""
    edits: tuple[Edit, ...] = ()
    """Written before the pointers."""
    pointers: tuple[Pointer, ...] = ()
    """Written before the detours."""

    @property
    def written(self) -> tuple[Change, ...]:
        """All that is written, in order."""
        return (*self.edits, *self.pointers, *self.detours)

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            self.places + other.places,
            self.detours + other.detours,
            self.edits + other.edits,
            self.pointers + other.pointers,
        )


def unknown(places: Sequence[LibraryPlace], find: FindSymbol) -> str:
    """The first place that is not the known one, in words; an empty string if all are."""
    for place in places:
        va = find(place.symbol)
        if va is None:
            return f"it has no {place.symbol}"
        found = read_own_memory(va + place.off, place.length)
        if hashlib.sha256(found).hexdigest() != place.sha256:
            return f"its {place.symbol} is not the one that was measured"
    return ""


def apply(changes: Changes, find: FindSymbol) -> str:
    """Make the changes; returns why none was made, or an empty string."""
    written = changes.written
    symbols = {place.symbol for place in changes.places} | {each.symbol for each in written}
    for each in written:
        if not isinstance(each, Edit):
            symbols |= {name for name, _ in each.targets}
        if isinstance(each, Pointer):
            symbols.add(each.function)
    addresses: dict[str, int] = {}
    for symbol in sorted(symbols):
        va = find(symbol)
        if va is None:
            return f"it has no {symbol}"
        addresses[symbol] = va
    if reason := unknown(changes.places, find):
        return reason
    sites = [addresses[each.symbol] + each.off for each in written]
    for va, each in zip(sites, written, strict=True):
        old = _old(each, addresses)
        if read_own_memory(va, len(old)) != old:
            return f"its {each.symbol} is not the one that was measured"
    return _write(written, sites, addresses)


def _old(each: Change, addresses: dict[str, int]) -> bytes:
    if isinstance(each, Pointer):
        return struct.pack("<Q", addresses[each.function])
    return each.old


def _new(each: Change, site_va: int, block_va: int) -> bytes:
    if isinstance(each, Edit):
        return each.new
    if isinstance(each, Pointer):
        return struct.pack("<Q", block_va)
    jump = b"\xe9" + struct.pack("<i", block_va - (site_va + JUMP_LEN))
    return jump.ljust(len(each.old), _NOP)


def _write(written: Sequence[Change], sites: Sequence[int], addresses: dict[str, int]) -> str:
    blocks = [_block(each, addresses) for each in written]
    with _writable(written, sites) as is_writable:
        if not is_writable:
            return "the system does not let its code be changed"
        page_va = _page_near(sites, sum(map(len, blocks)))
        if page_va is None:
            return "there is no memory for code near it"
        ctypes.memmove(page_va, b"".join(blocks), sum(map(len, blocks)))
        if not _protect(page_va, sum(map(len, blocks)), _PROT_CODE):
            return "the system refuses memory for generated code"
        block_va = page_va
        for site_va, each, block in zip(sites, written, blocks, strict=True):
            new = _new(each, site_va, block_va)
            ctypes.memmove(site_va, new, len(new))
            block_va += len(block)
    return ""


def _block(each: Change, addresses: dict[str, int]) -> bytes:
    """The code of a change and its addresses, to a multiple of 8 bytes; an edit has none."""
    if isinstance(each, Edit):
        return b""
    code = each.code + bytes(-len(each.code) % 8)
    return code + b"".join(
        struct.pack("<Q", addresses[symbol] + off) for symbol, off in each.targets
    )


@contextlib.contextmanager
def _writable(written: Sequence[Change], sites: Sequence[int]) -> Iterator[bool]:
    """The code and data at these addresses can be written meanwhile, all of it or none."""
    opened: list[tuple[int, int, int]] = []
    try:
        for each, va in zip(written, sites, strict=True):
            is_data = isinstance(each, Pointer)
            length = POINTER_LEN if isinstance(each, Pointer) else len(each.old)
            if not _protect(va, length, _PROT_DATA if is_data else _PROT_ALL):
                break
            opened.append((va, length, mmap.PROT_READ if is_data else _PROT_CODE))
        yield len(opened) == len(sites)
    finally:
        for va, length, rights in opened:
            _protect(va, length, rights)


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
