# SPDX-License-Identifier: MIT
"""What a table parser asks of a kernel image, whatever kind of file that came from.

`vmipatch.image.elf.ElfImage` answers all of it; the packages do not import each other.
"""

# The members are those of vmipatch.image, and described there.
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol


class SectionSource(Protocol):
    """One section: addresses are linked virtual ones, sizes are bytes."""

    @property
    def name(self) -> str: ...
    @property
    def va(self) -> int: ...
    @property
    def end_va(self) -> int: ...
    @property
    def off(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def is_alloc(self) -> bool: ...
    @property
    def has_bytes(self) -> bool: ...


class SegmentSource(Protocol):
    """One PT_LOAD segment: linked and physical address."""

    @property
    def va(self) -> int: ...
    @property
    def pa(self) -> int: ...


class SymbolSource(Protocol):
    """One symbol."""

    @property
    def va(self) -> int: ...
    @property
    def size(self) -> int: ...


class SymbolsSource(Protocol):
    """The symbol table; empty in a stripped image."""

    @property
    def by_name(self) -> Mapping[str, SymbolSource]: ...
    def address(self, name: str) -> int | None: ...
    def next_va(self, va: int) -> int | None: ...


class ImageSource(Protocol):
    """A kernel image as bytes by linked address."""

    @property
    def name(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def allocated_sections(self) -> Sequence[SectionSource]: ...
    @property
    def executable_sections(self) -> Sequence[SectionSource]: ...
    @property
    def loads(self) -> Iterable[SegmentSource]: ...
    @property
    def section_by_name(self) -> Mapping[str, SectionSource]: ...
    @property
    def symbols(self) -> SymbolsSource: ...
    def section_at(self, va: int) -> SectionSource | None: ...
    def offset_of(self, va: int) -> int: ...
    def read(self, va: int, length: int) -> bytes: ...
