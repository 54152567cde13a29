# SPDX-License-Identifier: MIT
"""What must a rewritten kernel remember to become its input again?"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vmipatch.errors import VmipatchError
from vmipatch.image.elf import SECTION_HEADER_LEN, SHOFF_AT, ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.types import Section, SectionFlag, SectionKind
from vmipatch.restore.led import lead_back
from vmipatch.restore.note import SECTION, Gives, Note
from vmipatch.restore.rebuild import copied, restore
from vmipatch.restore.runs import Origins, Run, padded_sites, without_padding
from vmipatch.restore.walk import Resized, Walk

_SIZE_IN_HEADER = 16
"""Offset of sh_offset and sh_size in a section header."""


def empty_note(index: int) -> Content:
    """The section of the note before there is one; it must be the last of its file."""
    header = Section(
        index, SECTION, SectionKind.PROGBITS, SectionFlag.NONE, 0, 0, 0, 0, 0, 1, 0
    )  # fmt: skip
    return Content(header, b"")


def without_debug(image: ElfImage) -> bytes:
    """The file of `image` with its debug sections emptied; all that is loaded stays as it is."""
    loaded = max(s.off + s.file_len for s in image.loads)
    contents = [
        Content(s, b"" if s.is_debug else image.section_bytes(s)) for s in image.sections
    ]  # fmt: skip
    return write_elf(image, image.data[:loaded], contents, image.segments)


@dataclass(frozen=True, slots=True)
class Noted:
    """A rewritten kernel with its note, and what the note promises."""

    data: bytes = field(repr=False)
    gives: Gives
    sha256: str
    note_len: int


def add_note(data: bytes, input_: ElfImage, resized: Sequence[Resized], whole: bool) -> Noted:
    """The rewritten kernel `data` with a note that gives `input_` back.

    `resized` are all changes of length, in address order. Debug sections come back only if the
    note shall give the `whole` file. Raises VmipatchError if what it gives is not the input: then
    the rewriter has a bug.
    """
    dropped = not whole and any(s.is_debug and s.size for s in input_.sections)
    gives = Gives.WITHOUT_DEBUG if dropped else Gives.INPUT
    target = without_debug(input_) if dropped else input_.data
    output = ElfImage.parse(data, input_.name)
    note = _take(ElfImage.parse(target, input_.name), output, resized, gives).pack()
    result = _with_section(output, note)
    restored = restore(ElfImage.parse(result, input_.name))
    if restored.data != target:
        raise VmipatchError("the note gives another file than the input")
    return Noted(result, gives, restored.sha256, len(note))


def _take(target: ElfImage, output: ElfImage, resized: Sequence[Resized], gives: Gives) -> Note:
    sites = padded_sites(output)
    walk = Walk(target, output, resized, sites)
    runs = walk.runs()
    is_new = [walk.has_grown(site) for site in sites]
    is_in_front = [walk.is_padded_in_front(site) for site in sites]
    parts = without_padding(runs, sites, is_new, is_in_front)
    wanted = np.frombuffer(target.data, dtype=np.uint8)
    literals = b"".join(_literals(target.data, parts))
    result = np.frombuffer(copied(output.data, parts, literals), dtype=np.uint8).copy()
    answers = [np.array(is_new + is_in_front, dtype=np.bool_)]

    def judge(places: np.ndarray, values: np.ndarray, width: int) -> np.ndarray:
        yes = np.ones(len(places), dtype=np.bool_)
        for byte in range(width):
            yes &= wanted[places + byte] == (values >> (8 * byte)) & 0xFF
        answers.append(yes)
        return yes

    lead_back(output, Origins.of(parts), result, judge)
    wrong_at = np.flatnonzero(result != wanted)
    return Note(
        gives,
        len(target.data),
        hashlib.sha256(target.data).digest(),
        tuple(runs),
        literals,
        np.concatenate(answers),
        wrong_at,
        wanted[wrong_at].tobytes(),
    )


def _literals(data: bytes, parts: Sequence[Run]) -> Iterator[bytes]:
    at = 0
    for run in parts:
        yield data[at : at + run.literal_len]
        at += run.literal_len + run.copy_len


def _with_section(output: ElfImage, note: bytes) -> bytes:
    """The file with the note behind everything else."""
    result = bytearray(output.data)
    (off,) = struct.unpack_from("<I", result, SHOFF_AT)
    header = off + SECTION_HEADER_LEN * output.section_by_name[SECTION].index
    struct.pack_into("<II", result, header + _SIZE_IN_HEADER, len(result), len(note))
    return bytes(result) + note
