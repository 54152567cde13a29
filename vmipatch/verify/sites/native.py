# SPDX-License-Identifier: MIT
"""Which sensitive instructions of a rewritten kernel stay as they are, and which of them are run?

They too have to do at CPL 1 what they did at CPL 0: those that fault are emulated, loads of
segments find descriptors that have been given to ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmipatch.image.elf import ElfImage
from vmipatch.isa.decode import decode
from vmipatch.isa.trapped import TrappedInstruction, take_apart

EXECUTED: Final = frozenset(
    {
        "mov to segment", "mov from segment", "push segment", "pop segment", "lds", "les", "lfs",
        "lgs", "mov to ss", "pop ss", "lss", "verr", "verw", "cli", "sti", "clts", "in", "out",
        "ins", "outs", "mov to cr", "mov from cr", "mov to dr", "mov from dr", "lgdt", "lidt",
        "lldt", "ltr", "sgdt", "sidt", "sldt", "str", "invlpg", "wbinvd", "rdmsr", "wrmsr",
    }
)  # fmt: skip
"""Kinds that are executed where they stand. The others lead away, or the emulated processor lacks
them on both sides."""
ELSEWHERE: Final = (".vmi.text", ".altinstr_replacement")
"""Code of our own, and code that runs where it is copied to."""


def native_instructions(
    image: ElfImage, taken: frozenset[int]
) -> Iterator[tuple[int, TrappedInstruction]]:
    """Address and parts of each sensitive instruction that begins at none of the `taken` ones."""
    for section in image.executable_sections:
        if section.name in ELSEWHERE or not section.has_bytes:
            continue
        starts = [s.va for s in image.symbols if s.section == section.index]
        stream = decode(image.section_bytes(section), section.va, starts)
        for index in stream.sensitive_candidates.tolist():
            va = int(stream.starts[index])
            found = None if va in taken else take_apart(stream.bytes_at(index))
            if found is not None:
                yield va, found
