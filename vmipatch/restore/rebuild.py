# SPDX-License-Identifier: MIT
"""Which file was this rewritten kernel made from?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vmipatch.errors import InputNotUnderstood, MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.restore.led import lead_back
from vmipatch.restore.note import DAMAGED, SECTION, Gives, Note
from vmipatch.restore.runs import (
    CopyRun,
    Origins,
    Pads,
    WithoutNote,
    decode_runs,
    in_file_order,
    padded_sites,
    pads_of,
    stops_of,
    without_padding,
)


@dataclass(frozen=True, slots=True)
class Restored:
    """The file that came back."""

    data: bytes = field(repr=False)
    gives: Gives
    sha256: str
    note_len: int
    """Bytes of the note."""


def restore(output: ElfImage) -> Restored:
    """The file that `output` was made from, as far as its note promises.

    Raises InputNotUnderstood if there is no note, and as `given_back` does.
    """
    section = output.section_by_name.get(SECTION)
    if section is None or not section.size:
        raise InputNotUnderstood(
            f"there is no {SECTION} in it: nothing tells what it was made from",
            file=output.name,
            hint="give the output of `vmipatch rewrite`, as it was written",
        )
    return given_back(
        WithoutNote.of(output, section.off, b""), output.section_bytes(section), SECTION
    )


def given_back(body: WithoutNote, packed: bytes, place: str) -> Restored:
    """The file that the packed note, found at `place`, makes of a rewritten kernel.

    Raises MalformedImage if note or kernel are damaged: then the result would have another SHA-256
    than the note names.
    """
    name = body.image.name
    note = Note.unpack(packed, name, place)
    data = rebuild(body, note)
    if data is None or hashlib.sha256(data).digest() != note.sha256:
        raise MalformedImage(
            "what comes out has another SHA-256 than the input had: the kernel was changed since",
            file=name,
            hint=DAMAGED,
        )
    return Restored(data, note.gives, note.sha256.hex(), len(packed))


def placed(body: WithoutNote, note: Note) -> tuple[list[CopyRun], Pads]:
    """Which bytes of the output a note copies, without the padding of sites, and that padding."""
    _, pads, _, runs = _placed(body, note)
    return runs, pads


def _placed(body: WithoutNote, note: Note) -> tuple[_Answers, Pads, list[CopyRun], list[CopyRun]]:
    """The answers that are left, the padding, the runs with and without it."""
    answers = _Answers(note.answers)
    sites = padded_sites(body.image)
    is_new, is_in_front = (answers.take(len(sites)).tolist() for _ in range(2))
    pads = pads_of(sites, is_new, is_in_front)
    runs = decode_runs(note.rows, pads, stops_of(body))
    return answers, pads, runs, without_padding(runs, pads)


def rebuild(body: WithoutNote, note: Note) -> bytes | None:
    """Apply a note; None if it does not fit the kernel."""
    answers, _, told_runs, runs = _placed(body, note)
    if not fits(body.data, note, runs):
        return None
    literals = in_file_order(note.literals, told_runs)
    result = np.frombuffer(copied(body.data, runs, literals), dtype=np.uint8).copy()
    lead_back(
        body, Origins.of(runs), result, lambda places, _values, _width: answers.take(len(places))
    )
    if not answers.are_used_up:
        return None
    result[note.wrong_at] = np.frombuffer(note.right, dtype=np.uint8)
    return result.tobytes()


def copied(data: bytes, runs: Sequence[CopyRun], literals: bytes) -> bytes:
    """The bytes that the runs take from the output and from `literals`, one after the other."""
    parts, at = [], 0
    for run in runs:
        parts += [
            literals[at : at + run.literal_len],
            data[run.out_off : run.out_off + run.copy_len],
        ]
        at += run.literal_len
    return b"".join(parts)


MOST_COPIES = 2
"""How often a byte of the output may be copied, on average."""


def fits(data: bytes, note: Note, runs: Sequence[CopyRun]) -> bool:
    """Whether the runs lie in `data` and add up to what the note promises.

    Each byte of an output comes from one of the input: runs that copy `data` again and again are
    not those of a rewriting.
    """
    return sum(run.copy_len for run in runs) <= MOST_COPIES * len(data) and (
        sum(run.literal_len + run.copy_len for run in runs) == note.length
        and sum(run.literal_len for run in runs) == len(note.literals)
        and all(min(run) >= 0 and run.out_off + run.copy_len <= len(data) for run in runs)
        and (not len(note.wrong_at) or int(note.wrong_at[-1]) < note.length)
    )


_BITS = 8


class _Answers:
    """The answers of a note, used up one after the other; no, where there are no more."""

    def __init__(self, answers: np.ndarray) -> None:
        self._answers, self._at = answers, 0

    @property
    def are_used_up(self) -> bool:
        """Whether none is left but the bits that fill the last byte."""
        rest = self._answers[self._at :]
        return len(rest) < _BITS and not rest.any()

    def take(self, count: int) -> np.ndarray:
        """The next `count` answers (bool)."""
        found = self._answers[self._at : self._at + count]
        self._at += count
        missing = np.zeros(count - len(found), np.bool_)
        return np.concatenate([found, missing]) if len(missing) else found
