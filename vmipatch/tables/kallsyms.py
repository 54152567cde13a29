# SPDX-License-Identifier: MIT
"""kallsyms: which address has the i-th of the kernel's own symbols.

scripts/kallsyms.c writes one word for each symbol, sorted by address, and in the same order the
compressed names; `kallsyms_seqs_of_names` holds ranks into both. So entries cannot change
places alone: `emit` reports those that come out of order.

Up to 4.5 the words are addresses (kallsyms_addresses), and those of absolute symbols may lie
outside of the image: they stay. Since 4.6 they count from kallsyms_relative_base. 7.2 has no such
base, and each word is a distance from itself. Words for absolute per-CPU symbols
(KALLSYMS_ABSOLUTE_PERCPU in init/Kconfig) are 64-bit only. In which order the parts follow each
other, up to 6.3 the words first, from 6.4 on the names, does not matter here: symbols name each.
"""

from __future__ import annotations

import numpy as np

from vmipatch.errors import MalformedTable
from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout, in_image, named
from vmipatch.tables.locate import Range
from vmipatch.tables.source import ImageSource
from vmipatch.tables.table import Role, TableName, WordForm
from vmipatch.tables.view import ImageView

BASE = "kallsyms_relative_base"
MARKER_STEP = 256
"""kallsyms_markers has the offset of every 256th name."""
MAX_PADDING = 8
"""The parts of kallsyms are aligned to 4, by some kernels to 8."""


def _word(image: ImageSource, name: str) -> int | None:
    va = image.symbols.address(name)
    return None if va is None else int.from_bytes(image.read(va, 4), "little")


def _locate(image: ImageSource) -> Range | None:
    count = _word(image, "kallsyms_num_syms")
    start_va = image.symbols.address("kallsyms_offsets")
    if start_va is None:
        start_va = image.symbols.address("kallsyms_addresses")
    return Range(start_va, start_va + 4 * count) if start_va is not None and count else None


def _locate_base(image: ImageSource) -> Range | None:
    va = image.symbols.address(BASE)
    return None if va is None else Range(va, va + 4)


def _base(view: ImageView) -> int:
    base_va = _word(view.image, BASE)
    if base_va is None:
        raise MalformedTable(f"kallsyms: no {BASE}", file=view.image.name, place=".symtab")
    return base_va


def _check_addresses(draft: Draft) -> None:
    symbol = draft.target("symbol")
    draft.require(draft.ascends("symbol"), "lies below the one before it", symbol)
    _check_names(draft)
    if not draft.present["symbol"].any():
        raise draft.refusal("has no symbol inside of the image")


def _check_offsets(draft: Draft) -> None:
    draft.require_symbol("symbol")
    _check_addresses(draft)


def _check_distances(draft: Draft) -> None:
    if draft.view.image.symbols.address(BASE) is not None:
        raise draft.refusal(f"its words count from {BASE}")
    _check_offsets(draft)


def _check_names(draft: Draft) -> None:
    """As many names as addresses, and the markers where they say."""
    image = draft.view.image
    names_va = image.symbols.address("kallsyms_names")
    markers_va = image.symbols.address("kallsyms_markers")
    if names_va is None or markers_va is None or not names_va < markers_va:
        raise draft.refusal("its names are missing")
    names = image.read(names_va, markers_va - names_va)
    offsets = name_offsets(names, len(draft))
    if offsets is None or len(names) - offsets[-1] >= MAX_PADDING or any(names[offsets[-1] :]):
        raise draft.refusal(f"there are not {len(draft)} names")
    expected = offsets[:-1:MARKER_STEP]
    markers = image.read(markers_va, 4 * len(expected))
    if markers != np.array(expected, "<u4").tobytes():
        raise draft.refusal("kallsyms_markers do not fit the names")


def name_offsets(names: bytes, count: int) -> list[int] | None:
    """Where each compressed name begins, and where the last ends; None if they overrun or one
    is empty.

    A name is its length in one byte, or in two of 7 bits with the top bit of the first set,
    and that many tokens.
    """
    offsets = [0]
    at, end = 0, len(names)
    for _ in range(count):
        if at + 1 >= end:
            return None
        length = names[at]
        if not length:
            return None
        if length & 0x80:
            length = (length & 0x7F) | names[at + 1] << 7
            at += 1
        at += 1 + length
        offsets.append(at)
    return offsets if at <= end else None


def _check_base(draft: Draft) -> None:
    draft.require_data("base")


WORD_ENTRY = np.dtype([("symbol", "<u4")])

KALLSYMS = TableKind(
    TableName.KALLSYMS,
    _locate,
    (
        TableLayout(
            "4 bytes: u32 offset from kallsyms_relative_base",
            WORD_ENTRY,
            (TableField("symbol", WordForm.BASE_RELATIVE, Role.SYMBOL),),
            _check_offsets,
            order=named,
            base=_base,
        ),
        TableLayout(
            "4 bytes: s32 symbol",
            WORD_ENTRY,
            (TableField("symbol", WordForm.RELATIVE, Role.SYMBOL),),
            _check_distances,
            order=named,
        ),
        TableLayout(
            "4 bytes: u32 address",
            WORD_ENTRY,
            (TableField("symbol", WordForm.ABSOLUTE, Role.SYMBOL, present=in_image),),
            _check_addresses,
            order=named,
        ),
    ),
)

KALLSYMS_BASE = TableKind(
    TableName.KALLSYMS_BASE,
    _locate_base,
    (
        TableLayout(
            "4 bytes: u32 address",
            np.dtype([("base", "<u4")]),
            (TableField("base", WordForm.ABSOLUTE, Role.SYMBOL),),
            _check_base,
        ),
    ),
)
