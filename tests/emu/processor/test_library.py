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

from vmipatch.emu.processor import library
from vmipatch.emu.processor.engine import CHANGES
from vmipatch.emu.processor.library import JUMP_LEN, POINTER_LEN, Detour, Edit, Pointer

LOADED = ctypes.CDLL(uclib._name)
FILE = Path(uclib._name)
ALL = CHANGES


def loaded_va(symbol: str) -> int:
    return ctypes.cast(getattr(LOADED, symbol), ctypes.c_void_p).value or 0


def loaded_base_va() -> int:
    """Where the library's address 0 is: the start of its first mapping (proc(5), maps)."""
    starts = [
        int(line.split("-")[0], 16)
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(FILE))
    ]
    return min(starts)


def segments() -> bytes:
    """The file's PT_LOAD segments at their addresses (gABI, chapter 5)."""
    data = FILE.read_bytes()
    table_off, entry_len, count = struct.unpack_from("<Q14xHH", data, 32)
    image = bytearray()
    for number in range(count):
        kind, _, off, va, _, file_len, mem_len = struct.unpack_from(
            "<IIQQQQQ", data, table_off + number * entry_len
        )
        if kind == 1:
            image.extend(bytes(va + mem_len - len(image)))
            image[va : va + file_len] = data[off : off + file_len]
    return bytes(image)


@dataclass(slots=True)
class Copy:
    """The library in memory once more, where nothing executes it."""

    octets: mmap.mmap
    va: int
    base_va: int
    original: bytes = b""

    def relocate(self) -> None:
        """The pointers that are to be changed, as the dynamic linker would."""
        for each in ALL.pointers:
            struct.pack_into(
                "<Q", self.octets, self.off(each.symbol) + each.off, self.find(each.function)
            )
        self.original = self.octets[:]

    def find(self, symbol: str) -> int:
        return self.va + self.off(symbol)

    def off(self, symbol: str) -> int:
        return loaded_va(symbol) - self.base_va

    def apply(self) -> str:
        return library.apply(ALL, self.find)


@pytest.fixture
def copy() -> Iterator[Copy]:
    image = segments()
    octets = mmap.mmap(-1, len(image))
    octets[:] = image
    holder = ctypes.c_char.from_buffer(octets)
    copy = Copy(octets, ctypes.addressof(holder), loaded_base_va())
    copy.relocate()
    yield copy
    del holder
    octets.close()


def added_code_at(va: int, change: Pointer | Detour) -> tuple[bytes, tuple[int, ...]]:
    """The code there and the addresses after it."""
    count = len(change.targets)
    table_va = va + (len(change.code) + 7) // 8 * 8
    table = struct.unpack(f"<{count}Q", ctypes.string_at(table_va, 8 * count))
    return ctypes.string_at(va, len(change.code)), table


def test_known_library_is_changed_where_it_is_to_be_and_nowhere_else(copy: Copy) -> None:
    assert copy.apply() == ""
    changed = bytearray(copy.octets)
    for each in ALL.written:
        off = copy.off(each.symbol) + each.off
        if isinstance(each, Edit):
            end = off + len(each.new)
            assert changed[off:end] == each.new
        else:
            if isinstance(each, Pointer):
                end = off + POINTER_LEN
                (va,) = struct.unpack_from("<Q", changed, off)
            else:
                end = off + len(each.old)
                opcode, distance = struct.unpack_from("<Bi", changed, off)
                assert opcode == 0xE9
                assert changed[off + JUMP_LEN : end] == b"\x90" * (end - off - JUMP_LEN)
                va = copy.va + off + JUMP_LEN + distance
            targets = tuple(copy.find(name) + target_off for name, target_off in each.targets)
            assert added_code_at(va, each) == (each.code, targets)
        changed[off:end] = copy.original[off:end]
    assert changed == copy.original


def test_one_other_byte_anywhere_in_a_checked_place_and_nothing_is_written(copy: Copy) -> None:
    """Each byte of each place in turn."""
    for place in ALL.places:
        start = copy.off(place.symbol)
        for off in range(start, start + place.length):
            copy.octets[off] ^= 1 << off % 8
            assert copy.apply() == f"its {place.symbol} is not the one that was measured", hex(off)
            copy.octets[off] ^= 1 << off % 8
    assert copy.octets[:] == copy.original


def test_pointer_that_points_elsewhere_and_nothing_is_written(copy: Copy) -> None:
    for pointer in ALL.pointers:
        off = copy.off(pointer.symbol) + pointer.off
        for byte_off in range(off, off + POINTER_LEN):
            copy.octets[byte_off] ^= 0x10
            assert copy.apply() == f"its {pointer.symbol} is not the one that was measured"
            copy.octets[byte_off] ^= 0x10
    assert copy.octets[:] == copy.original


def test_all_that_is_written_is_inside_of_checked_places() -> None:
    lengths = {place.symbol: place.length for place in ALL.places}
    for detour in ALL.detours:
        assert len(detour.old) >= JUMP_LEN
        assert all(not off or off < lengths[symbol] for symbol, off in detour.targets)
    for each in ALL.written:
        if isinstance(each, Pointer):
            continue
        assert 0 <= each.off <= lengths[each.symbol] - len(each.old)
    assert all(len(edit.old) == len(edit.new) for edit in ALL.edits)


def test_library_without_a_symbol_is_left_as_it_is(copy: Copy) -> None:
    missing = ALL.places[-1].symbol
    reason = library.apply(ALL, lambda name: None if name == missing else copy.find(name))
    assert reason == f"it has no {missing}"
    assert copy.octets[:] == copy.original


def test_code_that_ends_before_its_place_does_is_left_as_it_is(copy: Copy) -> None:
    end_va = copy.va + len(copy.octets)
    reason = library.apply(ALL, lambda name: end_va - 2)
    assert "not the one that was measured" in reason


def test_code_that_may_not_be_written_is_left_as_it_is(copy: Copy, tmp_path: Path) -> None:
    """A shared mapping of a file that is opened for reading cannot be made writable (mmap(2))."""
    path = tmp_path / "library"
    path.write_bytes(copy.original)
    libc = library._libc()
    with path.open("rb") as file:
        va = libc.mmap(copy.va, len(copy.octets), mmap.PROT_READ, 0x11, file.fileno(), 0)
    assert va == copy.va, "MAP_SHARED, MAP_FIXED: the pointers stay right"
    assert copy.apply() == "the system does not let its code be changed"
    assert copy.octets[:] == copy.original


def test_without_room_for_jumps_nothing_is_written(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_NEAR_LEN", 0)
    assert copy.apply() == "there is no memory for code near it"
    assert copy.octets[:] == copy.original


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
    assert copy.octets[:] == copy.original
