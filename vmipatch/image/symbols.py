# SPDX-License-Identifier: MIT
"""Which name has which address, and the other way round."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vmipatch.errors import MalformedImage
from vmipatch.image.consistency import DAMAGED

SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("value", "<u4"),
        ("size", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("shndx", "<u2"),
    ]
)
"""Elf32_Sym (System V ABI, chapter 4)."""

STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE, STT_COMMON = range(6)
STB_LOCAL, STB_GLOBAL, STB_WEAK = range(3)
SHN_UNDEF = 0
SHN_ABS, SHN_COMMON = 0xFFF1, 0xFFF2
SHN_RESERVED = 0xFF00
"""Section indices from here on stand for no section (SHN_LORESERVE)."""

_NUMBERS = ("__crc_", "__kcfi_typeid_")
"""Beginnings of names whose values may be any number: checksums of exports (scripts/genksyms, up
to 5.18) and hashes of a function's type."""

_PAGE, _LARGEST_STACK = 1 << 12, 1 << 16


@dataclass(frozen=True, slots=True)
class Symbol:
    """One symbol. `section` is the section index, SHN_ABS for absolute values."""

    index: int
    name: str
    va: int
    size: int
    kind: int
    section: int
    is_global: bool


MAX_NAMES_LEN = 64 << 20
"""Bytes of all names at most, each as often as a symbol has it: names may be the ends of others, so
that a small file can hold gigabytes of them. A distribution's kernel has 3 MB."""


def _names_len(entries: np.ndarray, strings: bytes) -> int:
    """Bytes of the names of all symbols, each counted."""
    starts = entries["name"].astype(np.int64)
    ends = np.append(np.flatnonzero(np.frombuffer(strings, np.uint8) == 0), len(strings))
    return int((ends[np.searchsorted(ends, starts)] - starts).sum()) if len(starts) else 0


@dataclass(frozen=True, eq=False)
class SymbolTable:
    """All symbols of a file, as an array for bulk work and by name for single look-ups."""

    entries: np.ndarray
    strings: bytes = field(repr=False)

    @classmethod
    def empty(cls) -> SymbolTable:
        """The table of a stripped file."""
        return cls(np.zeros(0, dtype=SYMBOL), b"\0")

    @classmethod
    def parse(
        cls, data: bytes, strings: bytes, file: str, sections: int = SHN_RESERVED
    ) -> SymbolTable:
        """Read .symtab and .strtab of a file with so many `sections`.

        Raises MalformedImage on a size that does not divide, a name outside of `strings`, a section
        that does not exist, or strings without the zeros that such a table begins and ends with.
        """
        if len(data) % SYMBOL.itemsize:
            raise MalformedImage(
                "the symbol table has a broken size", file=file, place=".symtab", hint=DAMAGED
            )
        entries = np.frombuffer(data, dtype=SYMBOL)
        nameless = np.flatnonzero(entries["name"] >= max(len(strings), 1))
        if len(nameless):
            raise MalformedImage(
                f"the name of symbol {nameless[0]} lies outside of its strings",
                file=file,
                place=".symtab",
                hint=DAMAGED,
            )
        if (length := _names_len(entries, strings)) > MAX_NAMES_LEN:
            raise MalformedImage(
                f"the names of its symbols have {length} bytes together, more than any kernel's",
                file=file,
                place=".symtab",
                hint=DAMAGED,
            )
        shndx = entries["shndx"]
        homeless = np.flatnonzero((shndx >= sections) & (shndx < SHN_RESERVED))
        if len(homeless):
            raise MalformedImage(
                f"symbol {homeless[0]} is in section {shndx[homeless[0]]}, which does not exist",
                file=file,
                place=".symtab",
                hint=DAMAGED,
            )
        if len(entries) and (strings[:1] + strings[-1:]).strip(b"\0"):
            raise MalformedImage(
                "its strings do not begin and end with a zero",
                file=file,
                place=".symtab",
                hint=DAMAGED,
            )
        return cls(entries, strings)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Symbol]:
        # All rows in one step: one by one they take four times as long.
        for index, row in enumerate(self.entries.tolist()):
            yield self._symbol(index, row)

    def __getitem__(self, index: int) -> Symbol:
        return self._symbol(index, self.entries[index].tolist())

    def _symbol(self, index: int, row: tuple[int, ...]) -> Symbol:
        name, value, size, info, _, shndx = row
        return Symbol(index, self.name_at(name), value, size, info & 15, shndx, bool(info >> 4))

    def name_at(self, offset: int) -> str:
        """The NUL-terminated string at `offset` of .strtab."""
        end = self.strings.find(b"\0", offset)
        return self.strings[offset : end if end >= 0 else None].decode("utf-8", "replace")

    @property
    def is_local_label(self) -> npt.NDArray[np.bool_]:
        """Which symbols are the assembler's own (`.L...`) or have no name."""
        octets = np.frombuffer(self.strings + b"\0\0", np.uint8)
        first, second = (octets[self.entries["name"].astype(np.int64) + at] for at in (0, 1))
        found: npt.NDArray[np.bool_] = (first == 0) | (first == ord(".")) & (second == ord("L"))
        return found

    @property
    def is_number(self) -> npt.NDArray[np.bool_]:
        """Which symbols are absolute and hold a number that only happens to look like an address.

        Old linkers made absolute what a linker script defines outside of a section: an address.
        """
        found = self.entries["shndx"] == SHN_ABS
        for index in np.flatnonzero(found).tolist():
            found[index] = self.name_at(int(self.entries["name"][index])).startswith(_NUMBERS)
        result: npt.NDArray[np.bool_] = found
        return result

    @cached_property
    def by_name(self) -> Mapping[str, Symbol]:
        """The symbols by name; of several with one name the last (globals follow locals)."""
        return _ByName(self)

    def address(self, name: str) -> int | None:
        """The value of symbol `name`, or None if missing."""
        symbol = self.by_name.get(name)
        return None if symbol is None else symbol.va

    def next_va(self, va: int) -> int | None:
        """The lowest address above `va` that a symbol has, or None: names may be used twice."""
        values = self.entries["value"][self.entries["shndx"] != SHN_UNDEF]
        following = values[values > va]
        return int(following.min()) if len(following) else None

    @cached_property
    def _labels(self) -> np.ndarray:
        """The entries for `place_of` by address; assembler-local labels are left out."""
        kinds, shndx = self.entries["info"] & 15, self.entries["shndx"]
        wanted = np.isin(kinds, (STT_FUNC, STT_NOTYPE, STT_OBJECT)) & ~self.is_local_label
        wanted &= (shndx > SHN_UNDEF) & (shndx < SHN_ABS)
        labels = self.entries[wanted]
        found: np.ndarray = labels[np.argsort(labels["value"], kind="stable")]
        return found

    @cached_property
    def aligned_objects(self) -> np.ndarray:
        """The entries of objects that may have to be where they are aligned: to their own size, a
        power of two of more than a page and at most 64 KiB, as stacks are.
        """
        size, value = self.entries["size"], self.entries["value"]
        is_object = self.entries["info"] & 15 == STT_OBJECT
        is_power = (size > _PAGE) & (size <= _LARGEST_STACK) & (size & (size - 1) == 0)
        found: np.ndarray = self.entries[is_object & is_power & (value % np.maximum(size, 1) == 0)]
        return found

    def place_of(self, va: int) -> str:
        """`name+0x12` for an address, or the address in hexadecimal if nothing precedes it."""
        labels = self._labels
        end = bisect.bisect_right(labels["value"], va)
        if not end:
            return f"{va:#x}"
        label_va = int(labels["value"][end - 1])
        start = bisect.bisect_left(labels["value"], label_va)
        # Of several names a function's, then the first.
        _, name = min(
            (info & 15 != STT_FUNC, self.name_at(name))
            for name, info in labels[["name", "info"]][start:end].tolist()
        )
        return f"{name}+{va - label_va:#x}" if va > label_va else name


class _ByName(Mapping[str, Symbol]):
    """The symbols of a table by name: few of a hundred thousand are ever asked for."""

    def __init__(self, table: SymbolTable) -> None:
        entries = table.entries
        found = np.flatnonzero(entries["shndx"] != SHN_UNDEF)
        names = map(table.name_at, entries["name"][found].tolist())
        self._table = table
        self._index = dict(zip(names, found.tolist(), strict=True))
        self._index.pop("", None)

    def __getitem__(self, name: str) -> Symbol:
        return self._table[self._index[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)
