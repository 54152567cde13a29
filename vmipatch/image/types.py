# SPDX-License-Identifier: MIT
"""The plain values that an ELF file is described with."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class SectionKind(enum.IntEnum):
    """sh_type, as far as kernels use it (System V ABI, chapter 4)."""

    OTHER = -1
    NULL = 0
    PROGBITS = 1
    SYMTAB = 2
    STRTAB = 3
    RELA = 4
    NOTE = 7
    NOBITS = 8
    REL = 9

    @classmethod
    def of(cls, number: int) -> SectionKind:
        """The kind with this number, OTHER for those we never look at."""
        return cls(number) if number in cls._value2member_map_ else cls.OTHER


class SectionFlag(enum.IntFlag):
    """sh_flags bits that matter here."""

    NONE = 0
    WRITE = 1
    ALLOC = 2
    EXEC = 4
    KNOWN = WRITE | ALLOC | EXEC


class SegmentKind(enum.IntEnum):
    """p_type, as far as kernels use it."""

    OTHER = -1
    LOAD = 1
    NOTE = 4

    @classmethod
    def of(cls, number: int) -> SegmentKind:
        """The kind with this number, OTHER for those we never look at."""
        return cls(number) if number in cls._value2member_map_ else cls.OTHER


@dataclass(frozen=True, slots=True)
class Section:
    """One section header. Addresses are linked virtual ones, sizes are bytes."""

    index: int
    name: str
    kind: SectionKind
    flags: SectionFlag
    va: int
    off: int
    size: int
    link: int
    info: int
    align: int
    entry_len: int
    holds_data: bool = False
    """It holds data, though its flags say that it holds instructions; see among_data."""

    @property
    def end_va(self) -> int:
        """First address after the section."""
        return self.va + self.size

    @property
    def is_alloc(self) -> bool:
        """Whether the section occupies memory at run time."""
        return bool(self.flags & SectionFlag.ALLOC)

    @property
    def is_exec(self) -> bool:
        """Whether the section holds instructions.

        Notes never do, but up to 4.x the linker left them the flag of the segment of code.
        """
        if self.holds_data or self.kind is SectionKind.NOTE:
            return False
        return bool(self.flags & SectionFlag.EXEC)

    @property
    def has_bytes(self) -> bool:
        """Whether the file holds bytes for the section."""
        return self.kind not in (SectionKind.NOBITS, SectionKind.NULL)

    @property
    def is_debug(self) -> bool:
        """Whether it describes code by its addresses for debuggers (DWARF, or its relocations)."""
        return not self.is_alloc and self.name.removeprefix(".rel").startswith(
            (".debug_", ".gdb_index")
        )

    def __contains__(self, va: int) -> bool:
        return self.va <= va < self.end_va


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A file before its debug sections were emptied."""

    sha256: str
    sections: tuple[str, ...]
    """Names of those that held anything."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header. `pa` is where a boot loader puts the bytes."""

    kind: SegmentKind
    off: int
    va: int
    pa: int
    file_len: int
    mem_len: int
    flags: int
    align: int
