# SPDX-License-Identifier: MIT
"""What is a kernel module, once somebody has linked it?

A module is a relocatable file (ET_REL): each section begins at 0, and what refers to an address is
a relocation. All other code here thinks in linked addresses, so a module is linked as a loader
would: each section gets a region of its own of 16 MiB, with room to grow, and the words are
filled in. What the kernel has to supply has addresses after all of them: section 0, which in a
file stands for what is not there. After the rewrite `unlink` takes the addresses out again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from vmipatch.errors import InputNotUnderstood, MalformedImage
from vmipatch.image.consistency import DAMAGED, require_own_bytes
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, R_386_NONE, RAW_REL, WORD_KINDS
from vmipatch.image.symbols import SHN_ABS, SHN_UNDEF, STT_SECTION, SYMBOL
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment, SegmentKind

ET_REL = 1
TYPE_AT = 16
REGION_LEN = 1 << 24
MAX_SECTION_LEN = REGION_LEN // 4 * 3
"""The largest known, .text of a graphics driver, has a third of a region."""
FEW_SECTIONS = 0xE0
"""Up to so many each section has a region, beyond only those that occupy memory."""
LAST_REGION = 0xF8
ADDED_REGIONS = 8
"""How many at most the rewriter asks for."""
OWN_PREFIXES = (".vmi.", ".rel.vmi.")
"""Names of what the rewriter adds: a module and what is made of it are linked alike."""
OUTSIDE = "*kernel*"
"""The section of the linked image that stands for what other modules and the kernel supply."""
OUTSIDE_STEP = 16
"""Bytes between the addresses of two supplied symbols."""
OUTSIDE_VA, OUTSIDE_LEN, OUTSIDE_TAIL_LEN = 0xF9000000, 0x4000000, 1 << 20
"""Where they are; bytes of all and after the last: words point into what the symbols name."""
_NEVER_LOADED = (SectionKind.REL, SectionKind.SYMTAB)
SIGNATURE_END = b"~Module signature appended~\n"
"""The mark that the kernel looks for at the end of the file (include/linux/module_signature.h)."""
ALL_RIGHTS = 7


@dataclass(frozen=True)
class Module:
    """A module as stored, and as linked."""

    file: ElfImage
    """Addresses of its sections are 0, its symbols count from their sections."""
    image: ElfImage
    """The same bytes at the same offsets, linked; section 0 is OUTSIDE."""
    signature_len: int
    """Bytes of the signature after the ELF file, which is not part of `file`."""

    @classmethod
    def parse(cls, data: bytes, name: str = "<bytes>") -> Module:
        """Read and link the module in `data`.

        Raises MalformedImage if it is not an i386 module, contradicts itself, or has a relocation
        that the kernel's loader does not know.
        """
        length = signed_len(data)
        file = ElfImage.parse(data[: len(data) - length], name)
        if not is_module(file.data):
            raise MalformedImage(
                "this is not a relocatable file", file=name, place=f"offset {TYPE_AT:#x}",
                hint="give a .ko file as the kernel build leaves it",
            )  # fmt: skip
        return cls(file, link(file), length)


def is_module(data: bytes) -> bool:
    """Whether `data` begins as a relocatable ELF file does."""
    return data[:4] == b"\x7fELF" and data[TYPE_AT : TYPE_AT + 2] == struct.pack("<H", ET_REL)


def is_linked_module(image: ElfImage) -> bool:
    """Whether `image` is what `link` makes of a module."""
    return OUTSIDE in image.section_by_name


@dataclass(frozen=True, slots=True)
class ModuleRegions:
    """Where each section of a module is linked."""

    numbers: tuple[int, ...]
    """The region of each section by index, 0 for none; sections added later have the next ones."""

    @classmethod
    def of(cls, sections: Sequence[Section]) -> ModuleRegions:
        """Those of the sections of a file."""
        own = sum(s.name.startswith(OWN_PREFIXES) for s in sections)
        if len(sections) - own <= FEW_SECTIONS:
            return cls(tuple(range(1, len(sections) + 1)))
        count = accumulate(s.is_alloc for s in sections)
        return cls(tuple(n if s.is_alloc else 0 for n, s in zip(count, sections, strict=True)))

    def number(self, index: int) -> int:
        """The region of section `index`."""
        if index < len(self.numbers):
            return self.numbers[index]
        return max(self.numbers) + 1 + index - len(self.numbers)

    def va(self, index: int) -> int:
        """Where section `index` is linked."""
        return self.number(index) * REGION_LEN

    def index_at(self, va: int) -> int:
        """The section in whose region `va` lies."""
        number = va // REGION_LEN
        if number > max(self.numbers):
            return len(self.numbers) + number - max(self.numbers) - 1
        return self.numbers.index(number)


def signed_len(data: bytes) -> int:
    """Bytes of the signature at the end, with its trailer (struct module_signature)."""
    if not data.endswith(SIGNATURE_END):
        return 0
    trailer = len(data) - len(SIGNATURE_END) - 12
    if trailer < 0:
        return len(SIGNATURE_END)
    (payload_len,) = struct.unpack_from(">I", data, trailer + 8)
    return len(data) - trailer + int(min(payload_len, trailer))


def link(file: ElfImage) -> ElfImage:
    """The linked image of the relocatable `file`, which is not signed.

    Raises MalformedImage for sections, symbols and relocations that no loader would take.
    """
    sections = placed(file)
    symbols = _valued(file)
    data = bytearray(file.data)
    table = next((s for s in file.sections if s.kind is SectionKind.SYMTAB), None)
    if table is not None:
        data[table.off : table.off + table.size] = symbols.tobytes()
    octets = np.frombuffer(data, dtype=np.uint8)
    for rel in sections:
        if rel.kind is SectionKind.REL and sections[rel.info].is_alloc:
            _apply(file, rel, sections[rel.info], symbols, octets)
    whole = OUTSIDE_VA + OUTSIDE_LEN - REGION_LEN
    segment = Segment(SegmentKind.LOAD, 0, REGION_LEN, REGION_LEN, 0, whole, ALL_RIGHTS, 1)
    by_name: dict[str, Section] = {}
    for section in sections:
        by_name.setdefault(section.name, section)
    return ElfImage(file.name, bytes(data), sections, (segment,), 0, by_name)


def placed(file: ElfImage) -> tuple[Section, ...]:
    """The sections of `file` as linked, OUTSIDE first. Raises MalformedImage."""
    if not file.sections:
        raise _refused(file, "a module does not have 0 sections", "headers")
    regions = ModuleRegions.of(file.sections)
    own = sum(s.name.startswith(OWN_PREFIXES) for s in file.sections)
    if max(regions.numbers) + (0 if own else ADDED_REGIONS) > LAST_REGION:
        raise InputNotUnderstood(
            f"{sum(s.is_alloc for s in file.sections)} sections that occupy memory are more than "
            "vmipatch has room for",
            file=file.name,
            place="section headers",
            hint="link the sections of functions into one (ld -r -T), as the kernel's build does",
        )
    if file.sections[0].kind is not SectionKind.NULL:
        raise _refused(file, "the first section is not the empty one", "section 0")
    for section in file.sections:
        place = f"section {section.index} ({section.name})"
        if section.kind is SectionKind.RELA:
            raise _refused(file, "i386 has no relocations with addends of their own", place)
        if section.kind is SectionKind.REL and not section.info:
            raise _refused(file, "it applies to no section", place)
        if section.is_alloc and section.kind in _NEVER_LOADED:
            raise _refused(file, "it is loaded, and only a linker reads it", place)
        if section.is_alloc and (section.size > MAX_SECTION_LEN or section.va):
            raise _refused(file, "the section is too large, or has an address already", place)
    require_own_bytes(file.sections, file.name)
    outside = Section(
        0, OUTSIDE, SectionKind.NOBITS, SectionFlag.ALLOC, OUTSIDE_VA, 0, OUTSIDE_LEN, 0, 0, 1, 0
    )
    linked = (replace(s, va=regions.va(s.index)) if s.is_alloc else s for s in file.sections[1:])
    return (outside, *linked)


def _valued(file: ElfImage) -> np.ndarray:
    """The symbols with linked addresses; undefined and absolute ones get one outside."""
    entries = file.symbols.entries.astype(SYMBOL)
    shndx = entries["shndx"].astype(np.int64)
    if OUTSIDE_STEP * len(entries) + OUTSIDE_TAIL_LEN > OUTSIDE_LEN:
        raise _refused(file, f"{len(entries)} symbols are more than a module has", ".symtab")
    regular = (shndx != SHN_UNDEF) & (shndx < len(file.sections))
    outside = (shndx == SHN_UNDEF) | (shndx == SHN_ABS)
    for index in np.flatnonzero(~(regular | outside))[:1].tolist():
        raise _refused(file, f"symbol {index} is in no section", ".symtab")
    alloc = np.array([s.is_alloc for s in file.sections] or [False])
    size = np.array([s.size for s in file.sections] or [0], np.int64)
    there = np.where(regular, shndx, 0)
    inside = entries["value"].astype(np.int64) + entries["size"] <= size[there]
    for index in np.flatnonzero(regular & alloc[there] & ~inside)[:1].tolist():
        raise _refused(
            file,
            f"symbol {file.symbols[index].name or index} lies outside of its section",
            ".symtab",
        )
    marks = regular & ((entries["info"] & 15) == STT_SECTION) & (entries["value"] != 0)
    for index in np.flatnonzero(marks)[:1].tolist():
        raise _refused(file, f"symbol {index} of a section is not at its start", ".symtab")
    moved = regular & alloc[there]
    numbers = np.array(ModuleRegions.of(file.sections).numbers or [0], np.int64)
    value = entries["value"].astype(np.int64) + np.where(moved, numbers[there] * REGION_LEN, 0)
    value = np.where(
        outside, OUTSIDE_VA + OUTSIDE_STEP * np.arange(len(entries), dtype=np.int64), value
    )
    entries["value"] = value.astype(np.uint32)
    entries["shndx"] = np.where(outside, SHN_UNDEF, entries["shndx"])
    return entries


def _apply(
    file: ElfImage, rel: Section, target: Section, symbols: np.ndarray, octets: np.ndarray
) -> None:
    """Fill in the words of `target`, and give the entries of `rel` linked addresses."""
    raw = np.frombuffer(file.data, RAW_REL, rel.size // RAW_REL.itemsize, rel.off).copy()
    kind, symbol = raw["info"] & 0xFF, raw["info"] >> 8
    at = raw["offset"].astype(np.int64)
    size = target.size if target.has_bytes else 0
    for wrong, why in (
        (~np.isin(kind, (R_386_NONE, *WORD_KINDS)), "is of a kind that no module loader knows"),
        ((at + 4 > size) & (kind != R_386_NONE), f"lies outside of {target.name}"),
        (symbol >= max(len(symbols), 1), "names a symbol that does not exist"),
    ):
        for index in np.flatnonzero(wrong)[:1].tolist():
            raise _refused(file, f"a relocation {why}", f"{rel.name} for {int(at[index]):#x}")
    words = kind != R_386_NONE
    off = target.off + at[words]
    spot = off[:, None] + np.arange(4)
    addend = octets[spot].reshape(-1).view("<u4").astype(np.int64)
    value = addend + symbols["value"][symbol[words]].astype(np.int64)
    value -= np.where(kind[words] == R_386_32, 0, target.va + at[words])
    octets[spot] = (value & 0xFFFFFFFF).astype("<u4").view(np.uint8).reshape(-1, 4)
    raw["offset"][words] += np.uint32(target.va)
    octets[rel.off : rel.off + rel.size] = np.frombuffer(raw.tobytes(), np.uint8)


def unlink(
    sections: Sequence[Section], linked: Mapping[int, bytes], symbols: np.ndarray
) -> dict[int, bytes]:
    """Stored contents of linked sections, by index, as `link` would read them.

    Words lose the address of their symbol, relocations that of their section. `linked` are the
    contents of sections that occupy memory and of their relocations, `symbols` the linked symbols.
    """
    stored = {index: bytearray(data) for index, data in linked.items()}
    value = symbols["value"].astype(np.int64)
    for rel in sections:
        if rel.kind is not SectionKind.REL or not sections[rel.info].is_alloc:
            continue
        target = sections[rel.info]
        raw = np.frombuffer(linked[rel.index], RAW_REL).copy()
        words = (raw["info"] & 0xFF) != R_386_NONE
        at = raw["offset"][words].astype(np.int64) - target.va
        octets = np.frombuffer(stored[target.index], np.uint8)
        spot = at[:, None] + np.arange(4)
        held = octets[spot].reshape(-1).view("<u4").astype(np.int64)
        held -= value[raw["info"][words] >> 8]
        held += np.where((raw["info"][words] & 0xFF) == R_386_32, 0, target.va + at)
        octets[spot] = (held & 0xFFFFFFFF).astype("<u4").view(np.uint8).reshape(-1, 4)
        raw["offset"][words] = at.astype(np.uint32)
        stored[rel.index] = bytearray(raw.tobytes())
    return {index: bytes(data) for index, data in stored.items()}


def _refused(file: ElfImage, message: str, place: str) -> MalformedImage:
    return MalformedImage(message, file=file.name, place=place, hint=DAMAGED)
