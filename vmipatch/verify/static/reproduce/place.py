# SPDX-License-Identifier: MIT
"""Where does what is not loaded go, and what is written last?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from vmipatch.verify.static.reproduce.canvas import Canvas
from vmipatch.verify.static.reproduce.decisions import Change
from vmipatch.verify.static.reproduce.pieces import Sections
from vmipatch.verify.static.reproduce.rows import Row

HEAD_ALIGN = 4
"""Alignment of the section headers."""


@dataclass(frozen=True, slots=True, eq=False)
class Reproduction:
    """The file that should be there, and the decisions that it was made from."""

    canvas: Canvas
    changes: tuple[Change, ...]


def place(sections: Sections, end: int) -> int:
    """Give what is not loaded its offset and size, from `end` of the file on; where it ends."""
    for head, content in zip(sections.heads, sections.contents, strict=True):
        if content is not None:
            align = max(int(head["align"]), 1)
            head["off"] = -(-end // align) * align
            head["size"] = len(content.data)
            end = int(head["off"]) + len(content.data)
    return end


def put_rest(canvas: Canvas, sections: Sections) -> None:
    """The sections that are not loaded, with zeros for alignment between."""
    offs = [int(h["off"]) for h, c in zip(sections.heads, sections.contents, strict=True) if c]
    canvas.put(min(offs), bytes(max(len(canvas.octets) - min(offs), 0)), Row.ZEROS)
    for head, content in zip(sections.heads, sections.contents, strict=True):
        if content is not None:
            canvas.put(int(head["off"]), content.data, content.row)


def put_identity(canvas: Canvas, place: tuple[int, int], length: int) -> None:
    """The build-id at an offset, so many bytes: a hash of `length` bytes of the file, with zeros
    in the id's place.
    """
    off, size = place
    canvas.put(off, bytes(size), Row.IDENTITY)
    octets = canvas.octets[:length].tobytes()
    digest = hashlib.sha1(octets, usedforsecurity=False).digest()
    canvas.put(off, digest[:size].ljust(size, b"\0"), Row.IDENTITY)


def put_note(canvas: Canvas, heads: np.ndarray, head_off: int, note_off: int, note: bytes) -> None:
    """The restore note, the last section, at the end of the file, and its header."""
    heads["off"][-1], heads["size"][-1] = note_off, len(note)
    canvas.put(head_off, heads.tobytes(), Row.SECTION_HEADERS)
    canvas.put(note_off, note, Row.NOTE)
