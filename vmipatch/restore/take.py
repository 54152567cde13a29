# SPDX-License-Identifier: MIT
"""What must a rewritten kernel remember to become its input again?"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vmipatch.errors import MalformedImage, VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.elf_write import Content
from vmipatch.image.trim import without_debug
from vmipatch.image.types import Section, SectionFlag, SectionKind
from vmipatch.restore.led import WORD_LEN, lead_back
from vmipatch.restore.note import SECTION, Gives, Note
from vmipatch.restore.rebuild import copied, restore
from vmipatch.restore.runs import (
    CopyRun,
    Origins,
    WithoutNote,
    by_length,
    padded_sites,
    pads_of,
    place_in_header,
    stops_of,
    told,
    without_padding,
)
from vmipatch.restore.walk import Resized, SideBySide


def empty_note(index: int) -> Content:
    """The section of the note before there is one; it must be the last of its file."""
    header = Section(
        index, SECTION, SectionKind.PROGBITS, SectionFlag.NONE, 0, 0, 0, 0, 0, 1, 0
    )  # fmt: skip
    return Content(header, b"")


def without_note(image: ElfImage) -> ElfImage:
    """A rewritten kernel with the section of its note emptied again, ready for another."""
    section = image.section_by_name[SECTION]
    result = bytearray(image.data[: section.off])
    _set_section(result, image, section.off, 0)
    return ElfImage.parse(bytes(result), image.name)


@dataclass(frozen=True, slots=True)
class Noted:
    """A rewritten kernel with its note, and what the note promises."""

    data: bytes = field(repr=False)
    gives: Gives
    sha256: str
    note_len: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """The file that is to come back."""

    image: ElfImage
    whole: bool = False
    """Whether debug sections have to come back too."""


def add_note(data: bytes, wanted: Wanted, resized: Sequence[Resized]) -> Noted:
    """The rewritten kernel `data` with a note that gives the `wanted` file back.

    `resized` are all changes of length, in address order. Raises VmipatchError if the note gives
    something else: then the rewriter has a bug.
    """
    name = wanted.image.name
    target = wanted.image if wanted.whole else without_debug(wanted.image)
    gives = Gives.WITHOUT_DEBUG if target.trimmed else Gives.INPUT
    output = ElfImage.parse(data, name)
    body = WithoutNote.of(output, len(data), b"")
    result = with_note(output, make_note(target, b"", body, resized, gives).pack())
    try:
        restored = restore(ElfImage.parse(result, name))
    except MalformedImage as error:
        raise VmipatchError("the note gives another file than the input", file=name) from error
    return Noted(result, gives, restored.sha256, restored.note_len)


def make_note(
    target: ElfImage,
    target_list: bytes,
    body: WithoutNote,
    resized: Sequence[Resized],
    gives: Gives,
) -> Note:
    """The note that gives `target` and `target_list` back from `body`, which has no note yet."""
    sites = padded_sites(body.image)
    walk = SideBySide(target, body, resized, sites)
    data = target.data + target_list
    runs = walk.runs(target_list)
    is_new = [walk.has_grown(site) for site in sites]
    is_in_front = [walk.is_padded_in_front(site) for site in sites]
    pads = pads_of(sites, is_new, is_in_front)
    parts = without_padding(runs, pads)
    if min(map(min, parts)) < 0 or sum(r.literal_len + r.copy_len for r in parts) != len(data):
        # Sections in an order that no build has: nothing is copied, everything is missing.
        runs = parts = [CopyRun(len(data), 0, 0)]
    wanted = np.frombuffer(data, dtype=np.uint8)
    literals = b"".join(_literals(data, parts))
    result = np.frombuffer(copied(body.data, parts, literals), dtype=np.uint8).copy()
    answers = [np.array(is_new + is_in_front, dtype=np.bool_)]

    def judge(places: np.ndarray, values: np.ndarray, width: int) -> np.ndarray:
        yes = np.ones(len(places), dtype=np.bool_)
        for byte in range(width):
            yes &= wanted[places + byte] == (values >> (8 * byte)) & 0xFF
        answers.append(yes)
        return yes

    lead_back(body, Origins.of(parts), result, judge)
    wrong_at = np.flatnonzero(result != wanted)
    return Note(
        gives,
        len(data),
        hashlib.sha256(data).digest(),
        tuple(told(runs, pads, stops_of(body))),
        by_length(literals, runs),
        np.concatenate(answers),
        wrong_at,
        wanted[wrong_at].tobytes(),
    )


def _literals(data: bytes, parts: Sequence[CopyRun]) -> Iterator[bytes]:
    at = 0
    for run in parts:
        yield data[at : at + run.literal_len]
        at += run.literal_len + run.copy_len


def with_note(output: ElfImage, note: bytes) -> bytes:
    """The file with the note after everything else."""
    result = bytearray(output.data)
    note += bytes(-(len(result) + len(note)) % WORD_LEN)  # a relocation list may follow
    _set_section(result, output, len(result), len(note))
    return bytes(result) + note


def _set_section(data: bytearray, image: ElfImage, off: int, size: int) -> None:
    struct.pack_into("<II", data, place_in_header(image, image.section_by_name[SECTION]), off, size)
