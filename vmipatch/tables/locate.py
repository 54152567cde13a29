# SPDX-License-Identifier: MIT
"""Where in the image is a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vmipatch.errors import MalformedTable
from vmipatch.tables.source import ImageSource, SymbolSource

WORD_LEN = 4
STT_FUNC = 2
"""The kind of a symbol that names a function (System V ABI, chapter 4)."""


class Range(NamedTuple):
    """Half-open range of linked addresses."""

    start_va: int
    end_va: int
    is_section: bool = False
    """Nothing but a section bounds it: zeros may follow the last entry."""


Locator = Callable[[ImageSource], Range | None]
"""Finds a table; None if this kernel has none, or an empty one."""


def between(start: str, stop: str) -> Locator:
    """The range between two symbols of the linker script."""

    def locate(image: ImageSource) -> Range | None:
        start_va, end_va = image.symbols.address(start), image.symbols.address(stop)
        if start_va is None or end_va is None or start_va == end_va:
            return None
        section = image.section_at(start_va)
        if start_va > end_va or section is None or not section.has_bytes:
            raise _contradiction(image, f"{start} and {stop} do not enclose bytes of the file")
        if end_va > section.end_va:
            raise _contradiction(image, f"{stop} lies beyond the end of {section.name}")
        return Range(start_va, end_va)

    return locate


def section(name: str) -> Locator:
    """A whole section."""

    def locate(image: ImageSource) -> Range | None:
        found = image.section_by_name.get(name)
        if found is None or not (found.is_alloc and found.has_bytes and found.size):
            return None
        return Range(found.va, found.end_va, is_section=True)

    return locate


def stubs(name: str) -> Locator:
    """The extent of a global symbol of code that has a size; data of that name is another thing."""

    def locate(image: ImageSource) -> Range | None:
        found = image.symbols.by_name.get(name)
        if found is None or not (found.size and found.is_global and _is_code(image, found.va)):
            return None
        return _sized(image, name, found)

    return locate


def _sized(image: ImageSource, name: str, found: SymbolSource) -> Range:
    holder = image.section_at(found.va)
    if holder is None or found.va + found.size > holder.end_va:
        raise _contradiction(image, f"{name} does not lie inside of one section")
    return Range(found.va, found.va + found.size)


def _is_code(image: ImageSource, va: int) -> bool:
    return any(section.va <= va < section.end_va for section in image.executable_sections)


def array(name: str) -> Locator:
    """The words from a global symbol of data on: as many as its size says, else up to the next.

    A function of that name (GNU Mach has an `interrupt`), or a variable of one file, is another
    thing. Assembly without .size leaves zeros as filling between an array and what follows.
    """

    def locate(image: ImageSource) -> Range | None:
        found = image.symbols.by_name.get(name)
        if found is None or not found.is_global or found.kind == STT_FUNC:
            return None
        if _is_code(image, found.va):
            return None
        if found.size:
            return _sized(image, name, found)
        holder = image.section_at(found.va)
        if holder is None or not holder.has_bytes:
            raise _contradiction(image, f"{name} does not lie inside of one section")
        end_va = min(image.symbols.next_va(found.va) or holder.end_va, holder.end_va)
        data = image.read(found.va, (end_va - found.va) // WORD_LEN * WORD_LEN)
        words = [data[at : at + WORD_LEN] for at in range(0, len(data), WORD_LEN)]
        while words and words[-1] == bytes(WORD_LEN):
            words.pop()
        return Range(found.va, found.va + WORD_LEN * len(words)) if words else None

    return locate


def first_of(*locators: Locator) -> Locator:
    """The answer of the first locator that has one: symbols are more exact than sections.

    What others name besides is filling up to the end of a section, else symbols and sections
    contradict each other.
    """

    def locate(image: ImageSource) -> Range | None:
        ranges = (each(image) for each in locators)
        found = next((each for each in ranges if each), None)
        for other in ranges:
            if found and other and _holds_more(image, other, found):
                raise _contradiction(
                    image, f"the table is said to be at {found.start_va:#x} and {other.start_va:#x}"
                    f" to {found.end_va:#x} and {other.end_va:#x}",
                )  # fmt: skip
        return found

    return locate


def _holds_more(image: ImageSource, other: Range, found: Range) -> bool:
    """Whether bytes of `other` that are not in `found` are more than zeros."""
    before = (other.start_va, min(other.end_va, found.start_va))
    following = (max(other.start_va, found.end_va), other.end_va)
    return any(any(image.read(s, e - s)) for s, e in (before, following) if s < e)


def _contradiction(image: ImageSource, message: str) -> MalformedTable:
    return MalformedTable(
        message,
        file=image.name,
        place=".symtab",
        hint="the symbol table and the sections contradict each other",
    )
