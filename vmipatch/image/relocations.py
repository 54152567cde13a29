# SPDX-License-Identifier: MIT
"""Which words of the image the linker filled in, and with what (.rel.* of --emit-relocs)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.errors import MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section, SectionKind

R_386_NONE, R_386_32, R_386_PC32, R_386_PLT32 = 0, 1, 2, 4

REL = np.dtype(
    [("va", "<u4"), ("kind", "u1"), ("symbol", "<u4"), ("section", "<u2"), ("value", "<u4")]
)
"""One relocation: where, which R_386_* kind, symbol index, index of the section that holds the
word, and the word as linked (S+A for R_386_32, S+A-P for R_386_PC32 and R_386_PLT32)."""

RAW_REL = np.dtype([("offset", "<u4"), ("info", "<u4")])
"""Elf32_Rel (System V ABI, chapter 4)."""

WORD_LEN = 4
EDITED = "the file is damaged, or was edited after the link: give it as the build left it"

WORD_KINDS = (R_386_32, R_386_PC32, R_386_PLT32)
SHORT_KINDS = (20, 21, 22, 23)
"""R_386_16, R_386_PC16, R_386_8 and R_386_PC8: what real-mode code has."""


@dataclass(frozen=True, eq=False)
class Relocations:
    """All relocations of allocated sections that patch a 32-bit word, in address order."""

    entries: np.ndarray
    """Structured array of dtype REL."""
    skipped: int
    """Entries of kind R_386_NONE (what the build-time sorter leaves) or of 8 and 16 bits."""

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def of(cls, image: ElfImage) -> Relocations:
        """Read every .rel section of an allocated section.

        Raises MalformedImage if an entry points outside of the bytes of its section or into the
        word of another, names a symbol that does not exist, or is of a kind that no kernel has.
        """
        parts: list[np.ndarray] = []
        skipped = 0
        for rel in image.sections:
            if rel.kind is not SectionKind.REL or not image.sections[rel.info].is_alloc:
                continue
            target = image.sections[rel.info]
            raw = np.frombuffer(image.section_bytes(rel), dtype=RAW_REL)
            kind = (raw["info"] & 0xFF).astype("u1")
            wanted = np.isin(kind, WORD_KINDS)
            known = wanted | np.isin(kind, (R_386_NONE, *SHORT_KINDS))
            _require(known, "is of a kind that no kernel has", raw, rel, image)
            skipped += int(len(raw) - wanted.sum())
            raw, kind = raw[wanted], kind[wanted]
            at = raw["offset"].astype(np.int64) - target.va
            size = len(image.section_bytes(target))
            _require(
                (at >= 0) & (at + 4 <= size), f"lies outside of {target.name}", raw, rel, image
            )
            known = (raw["info"] >> 8) < len(image.symbols)
            _require(known, "names a symbol that does not exist", raw, rel, image)
            part = np.zeros(len(raw), dtype=REL)
            part["va"], part["kind"] = raw["offset"], kind
            part["symbol"], part["section"] = raw["info"] >> 8, target.index
            part["value"] = _words_at(image.section_bytes(target), at)
            parts.append(part)
        merged = np.concatenate(parts) if parts else np.zeros(0, dtype=REL)
        merged = merged[np.argsort(merged["va"], kind="stable")]
        _require_words_apart(merged, image)
        return cls(merged, skipped)


def has_relocations(image: ElfImage) -> bool:
    """Whether the file says of its code which words the linker filled in.

    The build of 6.12 removes .rel.* and .rel__*: those of sections that have neither dot nor
    underscores, runtime_*, are left.
    """
    return any(
        s.kind is SectionKind.REL and s.size and image.sections[s.info].is_exec
        for s in image.sections
    )


def _require_words_apart(entries: np.ndarray, image: ElfImage) -> None:
    """Raise MalformedImage if two entries (dtype REL, by address) have bytes in common."""
    near = np.diff(entries["va"].astype(np.int64)) < WORD_LEN
    for index in np.flatnonzero(near)[:1].tolist():
        va = int(entries["va"][index])
        raise MalformedImage(
            "two relocations have bytes in common",
            file=image.name,
            place=f"{image.sections[int(entries['section'][index])].name} for {va:#x}",
            hint=EDITED,
        )


def _require(
    good: np.ndarray, complaint: str, raw: np.ndarray, rel: Section, image: ElfImage
) -> None:
    """Raise MalformedImage, naming the first entry of `raw` that is not `good`."""
    if not good.all():
        entry = raw[np.flatnonzero(~good)[0]]
        raise MalformedImage(
            f"a relocation {complaint}",
            file=image.name,
            place=f"{rel.name} for {int(entry['offset']):#x}",
            hint=EDITED,
        )


def _words_at(data: bytes, at: np.ndarray) -> np.ndarray:
    """The u32 words of `data` at the (unaligned) offsets `at`."""
    everywhere = np.ndarray(max(len(data) - 3, 0), "<u4", data, strides=(1,))
    words: np.ndarray = everywhere[at]
    return words
