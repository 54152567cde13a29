# SPDX-License-Identifier: MIT
"""Which code of the original is copied as a whole, or calls firmware, as Linux's sources say?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vmipatch.image.code_pages import code_pages
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_FUNC
from vmipatch.tables.copied_routines import COPIED_ROUTINES


def copied_ranges(image: ElfImage) -> list[tuple[int, int]]:
    """[start, end) of code that runs where it is copied to, and of pages that are taken whole."""
    routines = [edges for edges, is_firmware in _routines(image) if not is_firmware]
    return [*routines, *code_pages(image)]


def firmware_ranges(image: ElfImage) -> list[tuple[int, int]]:
    """[start, end) of routines that call firmware."""
    return [edges for edges, is_firmware in _routines(image) if is_firmware]


def _routines(image: ElfImage) -> Iterator[tuple[tuple[int, int], bool]]:
    for routine in COPIED_ROUTINES:
        start = image.symbols.by_name.get(routine.start_symbol)
        if start is None:
            continue
        end_va = start.va + start.size
        if routine.end_symbol is not None:
            end_va = image.symbols.address(routine.end_symbol) or end_va
        elif not start.size:
            end_va = _next_function(image, start.va)
        yield (start.va, end_va), routine.calls_firmware


def _next_function(image: ElfImage, va: int) -> int:
    section = image.section_at(va)
    if section is None:
        return va
    entries = image.symbols.entries
    functions = entries["value"][entries["info"] & 15 == STT_FUNC].astype(np.int64)
    return int(functions[functions > va].min(initial=section.end_va))
