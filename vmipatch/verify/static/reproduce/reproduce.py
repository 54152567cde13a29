# SPDX-License-Identifier: MIT
"""Which file should the output be, byte for byte?

It is built from the original and the decisions of `decisions`; the form of each piece is the one
that its module states. Copied from the output are thunks, runtime and the restore note alone: they
have rules of their own, and the ledger says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vmipatch.image.hook import records_in_room
from vmipatch.restore.note import SECTION as NOTE
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.reproduce import code, data
from vmipatch.verify.static.reproduce.added import AddedPart, code_part, record_parts
from vmipatch.verify.static.reproduce.canvas import Canvas
from vmipatch.verify.static.reproduce.decisions import Change, changes_of
from vmipatch.verify.static.reproduce.headers import file_header, segment_headers
from vmipatch.verify.static.reproduce.heads import SECTION_HEAD, segments_off
from vmipatch.verify.static.reproduce.layout import Layout, layout
from vmipatch.verify.static.reproduce.pieces import sections_of
from vmipatch.verify.static.reproduce.place import (
    HEAD_ALIGN,
    Reproduction,
    place,
    put_identity,
    put_note,
    put_rest,
)
from vmipatch.verify.static.reproduce.rows import Row
from vmipatch.verify.static.room import PAGE
from vmipatch.verify.static.sealed import runtime_start


def reproduce(comparison: Comparison) -> Reproduction:
    """Build the whole file that `comparison.output` should be."""
    changes = changes_of(comparison)
    new = layout(comparison, changes)
    in_room = records_in_room(comparison.manifest.start)
    if in_room:
        new = _with_records_in_room(comparison, new)
    records = record_parts(comparison, new)
    parts = [code_part(comparison, new)]
    out_va, out_len = new.trampolines
    if out_len:
        parts.insert(0, AddedPart(TRAMPOLINES, out_va, bytes(out_len), Row.CODE))
    records_off = -(-new.memory_len // PAGE) * PAGE
    loaded_end = records_off + records[-1].end_va - records[0].va
    if in_room:
        records_off = code.text_offset(comparison, new, new.records_va)
        loaded_end = new.memory_len
    sections = sections_of(comparison, new, changes, parts, records, records_off)
    end = place(sections, loaded_end)
    note = _note(comparison)
    head_off = -(-end // HEAD_ALIGN) * HEAD_ALIGN
    note_off = head_off + SECTION_HEAD.itemsize * len(sections.heads)
    canvas = Canvas(note_off + len(note))
    _put_loaded(canvas, comparison, new, changes)
    _put_added(canvas, comparison, new, parts, records, records_off)
    put_rest(canvas, sections)
    segments = segment_headers(comparison, new, records, records_off)
    canvas.put(
        0,
        file_header(comparison.inputs.original, new, head_off, len(segments), len(sections.heads)),
        Row.ELF_HEADER,
    )
    canvas.put(segments_off(comparison.inputs.original), segments.tobytes(), Row.SEGMENT_HEADERS)
    canvas.put(head_off, sections.heads.tobytes(), Row.SECTION_HEADERS)
    found = data.identity(comparison, new)
    if found is not None:
        put_identity(canvas, found, note_off)
    put_note(canvas, sections.heads, head_off, note_off, note)
    return Reproduction(canvas, tuple(changes))


def _with_records_in_room(comparison: Comparison, new: Layout) -> Layout:
    """The layout in which records lie at the end of the room for thunks and runtime."""
    start_va, end_va = new.room
    parts = record_parts(comparison, new)
    records_va = end_va - (parts[-1].end_va - parts[0].va)
    return replace(new, room=(start_va, records_va), records_va=records_va)


def _note(comparison: Comparison) -> bytes:
    section = comparison.output.section_by_name.get(NOTE)
    return b"" if section is None else comparison.output.section_bytes(section)


def _put_loaded(
    canvas: Canvas, comparison: Comparison, new: Layout, changes: Sequence[Change]
) -> None:
    """The sections that the original loads, and the bytes between them."""
    image = comparison.inputs.original.data
    front = image[: min(new.cut_off, len(image))]
    canvas.put(0, front, Row.GAPS)
    canvas.put(len(front), bytes(new.cut_off + new.shift_len - len(front)), Row.ZEROS)
    canvas.put(new.cut_off + new.shift_len, image[new.cut_off : new.loaded_len], Row.GAPS)
    data.put_data(canvas, comparison, new)
    code.put_code(canvas, comparison, new, changes)
    data.put_words(canvas, comparison, new)
    data.put_tables(canvas, comparison, new)


def _put_added(
    canvas: Canvas, comparison: Comparison, new: Layout, parts: Sequence[AddedPart],
    records: Sequence[AddedPart], records_off: int,
) -> None:  # fmt: skip
    """Thunks and runtime, and the segment of records; zeros in front of it up to its page."""
    canvas.put(new.memory_len, bytes(max(records_off - new.memory_len, 0) + HEAD_ALIGN), Row.ZEROS)
    start_va = parts[-1].va
    thunks_len = runtime_start(comparison) - start_va
    off = code.text_offset(comparison, new, start_va)
    canvas.put(off, parts[-1].data[:thunks_len], Row.THUNKS)
    canvas.put(off + thunks_len, parts[-1].data[thunks_len:], Row.RUNTIME)
    for part in records:
        canvas.put(records_off + part.va - records[0].va, part.data, part.row)
