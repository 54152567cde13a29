# SPDX-License-Identifier: MIT
"""The bytes of data, and the words in code and data that refer to addresses."""

from __future__ import annotations

import numpy as np

from vmipatch.image.relocations import R_386_32
from vmipatch.tables.table import Order, Table
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.data import build_id
from vmipatch.verify.static.images import NOWHERE
from vmipatch.verify.static.relocations import expected_words
from vmipatch.verify.static.reproduce.canvas import Canvas
from vmipatch.verify.static.reproduce.code import text_offset
from vmipatch.verify.static.reproduce.layout import Layout
from vmipatch.verify.static.reproduce.rows import Row
from vmipatch.verify.static.side import I64
from vmipatch.verify.static.tables import TableCheck

WORD_LEN = 4


def put_data(canvas: Canvas, comparison: Comparison, new: Layout) -> None:
    """Write every section that is loaded and holds no code, as the original has it."""
    image = comparison.inputs.original
    for section in image.allocated_sections:
        if section.has_bytes and not section.is_exec:
            off = int(new.heads["off"][section.index])
            canvas.put(off, image.section_bytes(section), Row.DATA)


def put_words(canvas: Canvas, comparison: Comparison, new: Layout) -> None:
    """Write each relocated word that is neither a displacement nor said by a table."""
    words, leads = expected_words(comparison)
    va = new.moves(words.va)
    values = leads - np.where(words.kind != R_386_32, va, 0)
    known = leads != NOWHERE
    _put(canvas, comparison, new, va[known], values[known], Row.DATA_WORDS)


def put_tables(canvas: Canvas, comparison: Comparison, new: Layout) -> None:
    """Write every table of the kernel with its words led on, sorted again if it is searched."""
    reader = TableCheck(comparison)
    for table in comparison.tables:
        should = reader.should(table, table.words)
        if table.order is Order.SORTED:
            _put_sorted(canvas, comparison, new, table, should, reader)
        else:
            va = new.moves(table.words["va"].astype(np.int64))
            _put_table_words(canvas, comparison, new, table, va, should, reader)


def _put_sorted(
    canvas: Canvas,
    comparison: Comparison,
    new: Layout,
    table: Table,
    should: I64,
    reader: TableCheck,
) -> None:
    """The entries in the order of the images of their addresses; equal ones as they were."""
    count, entry_len = len(table), table.entries.dtype.itemsize
    inner = table.words["va"].astype(np.int64) - table.start_va
    entry = inner // entry_len
    named, first = np.unique(entry, return_index=True)
    keys = np.zeros(count, np.int64)  # an entry without an address comes first
    keys[named] = should[first]
    order = np.argsort(keys, kind="stable")
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    start_va = new.moves.one(table.start_va)
    whole = np.frombuffer(table.entries.tobytes(), np.uint8).reshape(count, entry_len)[order]
    off = int(_offsets(comparison, new, np.array([start_va], np.int64))[0])
    canvas.put(off, whole.ravel(), Row.TABLES)
    va = start_va + inner + (rank[entry] - entry) * entry_len
    _put_table_words(canvas, comparison, new, table, va, should, reader)


def _put_table_words(
    canvas: Canvas, comparison: Comparison, new: Layout, table: Table, va: I64, should: I64,
    reader: TableCheck,
) -> None:  # fmt: skip
    known = should != NOWHERE
    words = table.words[known]
    values = should[known] - reader.origin(table, words["form"], va[known])
    values += reader.bias(words, va[known])
    _put(canvas, comparison, new, va[known], values, Row.TABLES)


def _put(
    canvas: Canvas, comparison: Comparison, new: Layout, vas: I64, values: I64, row: Row
) -> None:
    """Write words at new addresses; those in code belong to a row of their own."""
    offs = _offsets(comparison, new, vas)
    code = new.heads[[s.index for s in comparison.inputs.original.executable_sections]]
    in_code = np.zeros(len(vas), np.bool_)
    for head in code:
        in_code |= (vas >= int(head["va"])) & (vas < int(head["va"]) + int(head["size"]))
    out_va, out_len = new.trampolines
    in_code |= (vas >= out_va) & (vas < out_va + out_len)
    canvas.put_words(offs[in_code], values[in_code], Row.OPERANDS)
    canvas.put_words(offs[~in_code], values[~in_code], row)


def _offsets(comparison: Comparison, new: Layout, vas: I64) -> I64:
    """File offsets of addresses of the output in sections of the original; -1 in none of them."""
    result = np.full(len(vas), -1, np.int64)
    for section in comparison.inputs.original.allocated_sections:
        head = new.heads[section.index]
        begin, size = int(head["va"]), int(head["size"])
        if section.has_bytes and size:
            inside = (vas >= begin) & (vas < begin + size)
            result[inside] = vas[inside] - begin + int(head["off"])
    out_va, out_len = new.trampolines
    inside = (vas >= out_va) & (vas < out_va + out_len)
    if out_len:
        result[inside] = vas[inside] - out_va + text_offset(comparison, new, out_va)
    return result


def identity(comparison: Comparison, new: Layout) -> tuple[int, int] | None:
    """Offset in the output and length of the build-id; None if the original has none."""
    found = build_id(comparison.inputs.original)
    if found is None:
        return None
    off, length = found
    return off + (new.shift_len if off >= new.cut_off else 0), length
