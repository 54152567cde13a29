# SPDX-License-Identifier: MIT
"""Does every word of every kernel table point to the image of its old target?

The tables are parsed from the original; what the output must hold at each word follows from the
address map alone. The emitting half of `vmipatch.tables` plays no part.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.table import Order, Role, Table, TableName, WordForm
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.images import NOWHERE
from vmipatch.verify.static.rules import (
    PATCHED_PLACE,
    TABLE_ORDER,
    TABLE_WORD,
    TARGET_WITHOUT_IMAGE,
)
from vmipatch.verify.static.side import I64, file_offsets, words_at

FIXED_LENGTH = (
    TableName.ALTERNATIVES,
    TableName.ALTINSTR_REPLACEMENT,
    TableName.PARAINSTRUCTIONS,
    TableName.STATIC_CALLS,
    TableName.IRQ_STUBS,
    TableName.SPURIOUS_STUBS,
    TableName.EARLY_STUBS,
)
"""Tables whose places the kernel copies, overwrites or indexes by length."""
WORD = 0xFFFFFFFF
BRANCHES = (WordForm.BRANCH, WordForm.COPIED_BRANCH)
WHOLE = (WordForm.ABSOLUTE, WordForm.VALUE)
"""Forms whose words count from nothing."""
STUBS = (TableName.IRQ_STUBS, TableName.SPURIOUS_STUBS, TableName.EARLY_STUBS)


@judges(TABLE_WORD, TABLE_ORDER, PATCHED_PLACE, TARGET_WITHOUT_IMAGE)
def check_tables(comparison: Comparison) -> None:
    """Judge each word of each table, their order, and the places whose length counts."""
    TableCheck(comparison).check()


class TableCheck:
    """Judges the tables of one pair of files."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._images = comparison.images
        self._output = comparison.output
        self._octets = np.frombuffer(comparison.output.data, np.uint8)
        self._report = comparison.report

    def check(self) -> None:
        """Judge all of them."""
        for table in self._comparison.tables:
            self._report.counts["tables"] += 1
            self._report.counts["table words"] += len(table.words)
            if table.order is Order.SORTED:
                self._check_sorted(table)
            else:
                self._check_words(table)
            if table.name in FIXED_LENGTH:
                self._check_places(table)

    def new_place(self, table: Table, vas: I64) -> I64:
        """Where words of `table` are in the output."""
        if table.in_code:
            return self._comparison.words_in_code(vas)
        return self._images(vas)

    def should(self, table: Table, words: np.ndarray) -> I64:
        """The addresses that `words` must hold."""
        target = words["target_va"].astype(np.int64)
        # The fault handler sees the instruction itself, whatever padding stands before it.
        faults = (words["role"] == Role.INSTRUCTION) & (table.name is TableName.EX_TABLE)
        led = np.where(faults, self._images.itself(target), self._images(target))
        led = np.where(words["role"] == Role.OPERAND, self._operand_images(table, target), led)
        return np.where(words["form"] == WordForm.VALUE, target, led)

    def _operand_images(self, table: Table, vas: I64) -> I64:
        """Where operands of `table` that end their instructions are; NOWHERE for all else."""
        left = self._comparison.left
        places = table.places_of(Role.OPERAND)
        end_of = dict(
            zip(places["va"].tolist(), (places["va"] + places["len"]).tolist(), strict=True)
        )
        end = np.array([end_of.get(va, NOWHERE) for va in vas.tolist()], np.int64)
        over = left.over(vas)
        inside = (over >= 0) & (left.starts[over] < vas) & (left.ends[over] == end)
        return np.where(inside, self._comparison.words_in_code(vas), NOWHERE)

    def _base(self, table: Table) -> int:
        """The address that words which are relative to a base count from in the output."""
        if np.any(table.words["form"] == WordForm.BASE_RELATIVE):
            return self._images.one(table.base_va)
        return table.base_va

    def origin(self, table: Table, form: np.ndarray, va: I64) -> I64:
        """The number to add to each word at `va` to get the address it means."""
        return np.select(
            [form == WordForm.RELATIVE, np.isin(form, BRANCHES), np.isin(form, WHOLE)],
            [va, va + 4, np.zeros(len(va), np.int64)],
            np.full(len(va), self._base(table), np.int64),
        )

    def bias(self, words: np.ndarray, va: I64) -> I64:
        """The part of `words`, now at `va`, that is neither distance nor address.

        The jump that is copied holds how far its word is above the word of the copy: that lies
        where the image of the original is, whose bytes it replaces.
        """
        bias = words["bias"].astype(np.int64)
        copy_va = self._comparison.words_in_code(words["va"].astype(np.int64) - bias)
        is_copied = (words["form"] == WordForm.COPIED_BRANCH) & (copy_va != NOWHERE)
        return np.where(is_copied, va - copy_va, bias)

    def _check_words(self, table: Table) -> None:
        words = table.words
        should = self.should(table, words)
        va = self.new_place(table, words["va"].astype(np.int64))
        off = file_offsets(self._output, va)
        usable = off >= 0
        held = words_at(self._octets, np.where(usable, off, 0)).astype(np.int64)
        leads = (held - self.bias(words, va) + self.origin(table, words["form"], va)) & WORD
        self._compare(table, va[usable], leads[usable], should[usable], words[usable])
        if table.order is Order.NAMED:
            self._check_order(table, va, leads)

    def _compare(self, table: Table, va: I64, leads: I64, should: I64, words: np.ndarray) -> None:
        for i in np.flatnonzero((leads != should) & (should != NOWHERE)).tolist():
            message = f"targets {leads[i]:#x}, should target {should[i]:#x}"
            self._report.add(TABLE_WORD, int(va[i]), message, self._place(table, int(va[i])))
        for i in np.flatnonzero(should == NOWHERE).tolist():
            message = f"targeted {words['target_va'][i]:#x}, of which there is no image"
            where = self._place(table, int(va[i]))
            self._report.add(TARGET_WITHOUT_IMAGE, int(va[i]), message, where)

    def _place(self, table: Table, va: int) -> str:
        """Which entry of which table a word belongs to."""
        name = table.name.value
        if table.in_code or not len(table):
            return f"{name} ({self._report.place_of(va)})"
        start_va = self._images.one(table.start_va)
        return f"{name}[{(va - start_va) // table.entries.dtype.itemsize}]"

    def _check_order(self, table: Table, va: I64, keys: I64) -> None:
        for i in (np.flatnonzero(keys[1:] < keys[:-1]) + 1).tolist():
            message = f"{keys[i]:#x} lies below the entry before it"
            self._report.add(TABLE_ORDER, int(va[i]), message, self._place(table, int(va[i])))

    def _check_sorted(self, table: Table) -> None:
        """The entries, moved to their images and sorted anew, are the output's entries."""
        count, entry_len = len(table), table.entries.dtype.itemsize
        words = table.words
        inner = words["va"].astype(np.int64) - table.start_va
        entry = inner // entry_len
        named, first = np.unique(entry, return_index=True)
        should = self.should(table, words)
        keys = np.zeros(count, np.int64)  # an entry without an address comes first
        keys[named] = should[first]
        order = np.argsort(keys, kind="stable")
        rank = np.empty(count, np.int64)
        rank[order] = np.arange(count)
        start_va = self._images.one(table.start_va)
        va = start_va + inner + (rank[entry] - entry) * entry_len
        held = words_at(self._octets, file_offsets(self._output, va)).astype(np.int64)
        leads = (held - words["bias"] + self.origin(table, words["form"], va)) & WORD
        self._compare(table, va, leads, should, words)
        by_rank = np.argsort(rank[named])
        self._check_order(table, va[first][by_rank], leads[first][by_rank])
        self._check_rest(table, order, start_va, inner)

    def _check_rest(self, table: Table, order: I64, start_va: int, inner: I64) -> None:
        """Bytes of sorted entries that are no address moved with their entry."""
        count, entry_len = len(table), table.entries.dtype.itemsize
        fixed = np.ones(count * entry_len, np.bool_)
        fixed[(inner[:, None] + np.arange(4)).ravel()] = False
        fixed = fixed.reshape(count, entry_len)[order]
        was = np.frombuffer(table.entries.tobytes(), np.uint8).reshape(count, entry_len)[order]
        off = self._output.offset_of(start_va)
        now = self._octets[off : off + count * entry_len].reshape(count, entry_len)
        for i in np.flatnonzero(((was != now) & fixed).any(axis=1)).tolist():
            va = start_va + i * entry_len
            message = "bytes that are no address differ from the entry's"
            self._report.add(TABLE_WORD, va, message, self._place(table, va))

    def _check_places(self, table: Table) -> None:
        """Ranges of code that the kernel counts on have the lengths they had."""
        places = table.places[table.places["len"] > 0]
        start = places["va"].astype(np.int64)
        end = start + places["len"]
        new_start, new_end = self._images(start), self._end_image(end)
        grown = (new_end - new_start != end - start) & (new_start != NOWHERE)
        for i in np.flatnonzero(grown).tolist():
            was, now = int(end[i] - start[i]), int(new_end[i] - new_start[i])
            message = f"{table.name.value}: {now} bytes long, was {was}"
            self._report.add(PATCHED_PLACE, int(new_start[i]), message)
        if table.name in STUBS:
            for i in (np.flatnonzero(np.diff(new_start) != np.diff(start)) + 1).tolist():
                message = f"{table.name.value}: the distance to the entry before changed"
                self._report.add(PATCHED_PLACE, int(new_start[i]), message)

    def _end_image(self, vas: I64) -> I64:
        """Where the bytes before each address end in the output."""
        left = self._comparison.left
        images = self._comparison.words_in_code(vas - 1)
        # The last byte may be filler that was kept: its own image tells.
        over = left.over(vas - 1)
        filler = self._images(left.starts[np.maximum(over, 0)]) + vas - left.starts[over]
        return np.where(images == NOWHERE, filler, images + 1)
