# SPDX-License-Identifier: MIT
"""How do the bytes of a linked module become its file again?

`module.link` forgets what a file says of symbols that somebody else supplies. `linked_bytes` keeps
it, so that nothing is lost, and `file_bytes` is its inverse.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vmipatch.errors import MalformedImage
from vmipatch.image.consistency import DAMAGED
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import (
    OUTSIDE_STEP,
    OUTSIDE_VA,
    Module,
    placed,
    signed_len,
    unlink,
)
from vmipatch.image.relocations import R_386_NONE, RAW_REL
from vmipatch.image.symbols import SHN_ABS, SHN_UNDEF, SYMBOL
from vmipatch.image.types import Section, SectionKind


def linked_bytes(module: Module) -> ElfImage:
    """The linked image, but symbols from outside stand in it as they stand in the file."""
    table = _symbol_table(module.file)
    data = bytearray(module.image.data)
    if table is not None:
        raw = np.frombuffer(module.file.data, SYMBOL, table.size // SYMBOL.itemsize, table.off)
        rows = np.frombuffer(data, SYMBOL, len(raw), table.off)
        outside = _is_outside(raw)
        rows[outside] = raw[outside]
    return replace(module.image, data=bytes(data))


def file_bytes(data: bytes, name: str) -> bytes:
    """The file, signature included, whose linked bytes are `data`. Raises MalformedImage."""
    length = signed_len(data)
    file = ElfImage.parse(data[: len(data) - length], name)
    sections = placed(file)
    result = bytearray(data)
    table = _symbol_table(file)
    if table is None:
        return data
    rows = np.frombuffer(result, SYMBOL, table.size // SYMBOL.itemsize, table.off)
    shndx = rows["shndx"].astype(np.int64)
    outside = _is_outside(rows)
    if (shndx[~outside] >= len(sections)).any():
        raise MalformedImage("a symbol is in no section", file=name, place=table.name, hint=DAMAGED)
    linked_va = rows["value"].astype(np.int64)
    linked_va[outside] = OUTSIDE_VA + OUTSIDE_STEP * np.flatnonzero(outside).astype(np.int64)
    linked = _linked(sections, data)
    _require_words_inside(sections, linked, len(rows), name)
    stored = unlink(sections, linked, _valued(rows, linked_va))
    for index, content in stored.items():
        result[sections[index].off : sections[index].off + len(content)] = content
    alloc = np.array([s.is_alloc for s in sections])
    inside = ~outside & alloc[np.where(outside, 0, shndx)]
    start_va = np.array([s.va for s in sections], np.int64)
    rows["value"][inside] -= start_va[shndx[inside]].astype(np.uint32)
    return bytes(result)


def _symbol_table(file: ElfImage) -> Section | None:
    return next((s for s in file.sections if s.kind is SectionKind.SYMTAB), None)


def _is_outside(rows: np.ndarray) -> np.ndarray:
    outside: np.ndarray = (rows["shndx"] == SHN_UNDEF) | (rows["shndx"] == SHN_ABS)
    return outside


def _require_words_inside(
    sections: tuple[Section, ...], linked: dict[int, bytes], symbols: int, name: str
) -> None:
    """Raise MalformedImage for a relocation outside of its section, or of no symbol."""
    for index, content in linked.items():
        rel = sections[index]
        if rel.kind is not SectionKind.REL:
            continue
        raw = np.frombuffer(content, RAW_REL)
        at = raw["offset"].astype(np.int64) - sections[rel.info].va
        size = len(linked.get(rel.info, b""))
        word = (raw["info"] & 0xFF) != R_386_NONE
        stray = word & ((at < 0) | (at + 4 > size) | (raw["info"] >> 8 >= symbols))
        for entry in np.flatnonzero(stray)[:1].tolist():
            place = f"{rel.name}, entry {entry}"
            raise MalformedImage(
                "a relocation is outside of its section, or of no symbol",
                file=name, place=place, hint=DAMAGED,
            )  # fmt: skip


def _valued(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    result = rows.copy()
    result["value"] = values.astype(np.uint32)
    return result


def _linked(sections: tuple[Section, ...], data: bytes) -> dict[int, bytes]:
    """Contents that `unlink` asks for: of sections in memory and of their relocations."""
    return {
        s.index: data[s.off : s.off + s.size]
        for s in sections
        if s.has_bytes and (s.is_alloc or (s.kind is SectionKind.REL and sections[s.info].is_alloc))
    }
