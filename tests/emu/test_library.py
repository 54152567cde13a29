# SPDX-License-Identifier: MIT
"""Is a library changed only where every byte is the known one, and else not at all?"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from unicorn.unicorn_py3.unicorn import uclib

from vmipatch.emu import library
from vmipatch.emu.library import JUMP_LEN
from vmipatch.emu.stores import STORES

LOADED = ctypes.CDLL(uclib._name)
FILE = Path(uclib._name)
ALL = STORES


def loaded_va(symbol: str) -> int:
    return ctypes.cast(getattr(LOADED, symbol), ctypes.c_void_p).value or 0


def offset_in_file() -> int:
    """From an address of the loaded code to its place in the file (proc(5), maps)."""
    va = loaded_va(ALL.places[0].symbol)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, off, *_ = line.split()
        start, end = (int(word, 16) for word in span.split("-"))
        if start <= va < end:
            return int(off, 16) - start
    raise AssertionError("a symbol is in a mapping")


@dataclass(slots=True)
class Copy:
    """The library's file in memory once more, where nothing executes it."""

    octets: mmap.mmap
    va: int
    delta: int

    def find(self, symbol: str) -> int | None:
        return self.va + loaded_va(symbol) + self.delta

    def off(self, symbol: str) -> int:
        return loaded_va(symbol) + self.delta

    def apply(self) -> str:
        return library.apply(ALL, self.find)


@pytest.fixture
def copy() -> Iterator[Copy]:
    rights = mmap.PROT_READ | mmap.PROT_WRITE
    with FILE.open("rb") as file:
        octets = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=rights)
    holder = ctypes.c_char.from_buffer(octets)
    yield Copy(octets, ctypes.addressof(holder), offset_in_file())
    del holder
    octets.close()


def test_known_library_is_changed_at_the_detours_and_nowhere_else(copy: Copy) -> None:
    assert copy.apply() == ""
    original, changed = FILE.read_bytes(), bytearray(copy.octets)
    for detour in ALL.detours:
        off = copy.off(detour.symbol) + detour.off
        end = off + len(detour.old)
        opcode, distance = struct.unpack_from("<Bi", changed, off)
        assert opcode == 0xE9
        assert changed[off + JUMP_LEN : end] == b"\x90" * (len(detour.old) - JUMP_LEN)
        target_va = copy.va + off + JUMP_LEN + distance
        assert ctypes.string_at(target_va, len(detour.code)) == detour.code
        table_va = target_va + (len(detour.code) + 7) // 8 * 8
        addresses = struct.unpack(
            f"<{len(detour.targets)}Q", ctypes.string_at(table_va, 8 * len(detour.targets))
        )
        assert addresses == tuple(copy.va + copy.off(name) + o for name, o in detour.targets)
        changed[off:end] = original[off:end]
    assert changed == original


def test_one_other_byte_anywhere_in_a_checked_place_and_nothing_is_written(copy: Copy) -> None:
    """Each byte of each place in turn."""
    original = FILE.read_bytes()
    for place in ALL.places:
        start = copy.off(place.symbol)
        for off in range(start, start + place.length):
            copy.octets[off] ^= 1 << off % 8
            assert copy.apply() == f"its {place.symbol} is not the one that was measured", hex(off)
            copy.octets[off] ^= 1 << off % 8
    assert copy.octets[:] == original


def test_detours_are_inside_of_checked_places() -> None:
    lengths = {place.symbol: place.length for place in ALL.places}
    for detour in ALL.detours:
        assert len(detour.old) >= JUMP_LEN
        assert 0 <= detour.off <= lengths[detour.symbol] - len(detour.old)
        for symbol, off in detour.targets:
            assert 0 <= off < lengths[symbol]


def test_library_without_a_symbol_is_left_as_it_is(copy: Copy) -> None:
    missing = ALL.places[-1].symbol
    reason = library.apply(ALL, lambda name: None if name == missing else copy.find(name))
    assert reason == f"it has no {missing}"
    assert copy.octets[:] == FILE.read_bytes()


def test_code_that_ends_before_its_place_does_is_left_as_it_is(copy: Copy) -> None:
    end_va = copy.va + len(copy.octets)
    reason = library.apply(ALL, lambda name: end_va - 2)
    assert "not the one that was measured" in reason


def test_code_that_may_not_be_written_is_left_as_it_is() -> None:
    with FILE.open("rb") as file:
        octets = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    libc = library._libc()
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    with FILE.open("rb") as file:
        va = libc.mmap(None, len(octets), mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    delta = offset_in_file()
    reason = library.apply(ALL, lambda name: va + loaded_va(name) + delta)
    assert reason == "the system does not let its code be changed"
    assert ctypes.string_at(va, len(octets)) == octets[:]
    libc.munmap(va, len(octets))
    octets.close()


def test_without_room_for_jumps_nothing_is_written(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_NEAR_LEN", 0)
    assert copy.apply() == "there is no memory for code near it"
    assert copy.octets[:] == FILE.read_bytes()


def test_one_place_that_cannot_be_opened_keeps_all_from_being_written(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the second place cannot be opened, the first is not written either."""
    asked: list[int] = []
    protect = library._protect

    def refuse_second(va: int, length: int, rights: int) -> bool:
        asked.append(rights)
        return len(asked) != 2 and protect(va, length, rights)

    monkeypatch.setattr(library, "_protect", refuse_second)
    assert copy.apply() == "the system does not let its code be changed"
    assert copy.octets[:] == FILE.read_bytes()
