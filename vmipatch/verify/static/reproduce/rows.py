# SPDX-License-Identifier: MIT
"""By what is each byte of an output explained? The rows of the ledger of file bytes."""

from __future__ import annotations

import enum

from vmipatch.verify.static.rules import (
    FILE_ADDED,
    FILE_HEADER,
    FILE_IDENTITY,
    FILE_LOADED,
    FILE_MANIFEST,
    FILE_NAMES,
    FILE_RELOCATIONS,
    FILE_REST,
    FILE_SYMBOLS,
    RUNTIME,
    THUNK,
    UNEXPLAINED,
    WAY_BACK,
    Rule,
)


class Row(enum.Enum):
    """One row: its name in reports, and the rule that a byte of it is held to.

    The order is that of the numbers in the array of rows, where 0 is a byte without a row.
    """

    NOTHING = ("unexplained", UNEXPLAINED)
    ELF_HEADER = ("ELF header", FILE_HEADER)
    SEGMENT_HEADERS = ("program headers", FILE_HEADER)
    SECTION_HEADERS = ("section headers", FILE_HEADER)
    SECTION_NAMES = ("names of sections", FILE_NAMES)
    SYMBOLS = ("symbols", FILE_SYMBOLS)
    SYMBOL_NAMES = ("names of symbols", FILE_NAMES)
    RELOCATIONS = ("relocation sections", FILE_RELOCATIONS)
    CODE = ("code: equal to the input", FILE_LOADED)
    BRANCHES = ("code: displacements of branches", FILE_LOADED)
    OPERANDS = ("code: words that refer to addresses", FILE_LOADED)
    SITE_PADDING = ("code: padding of sites", FILE_LOADED)
    FILLER = ("code: filler of another length", FILE_LOADED)
    DATA = ("data: equal to the input", FILE_LOADED)
    DATA_WORDS = ("data: words that refer to addresses", FILE_LOADED)
    TABLES = ("data: tables of the kernel", FILE_LOADED)
    IDENTITY = ("data: build-id", FILE_IDENTITY)
    GAPS = ("between sections: equal to the input", FILE_REST)
    ZEROS = ("between sections: zeros", FILE_REST)
    UNLOADED = ("not loaded: equal to the input", FILE_REST)
    RECORDS = ("added: records", FILE_ADDED)
    THUNK_CALLS = ("added: calls in thunks", FILE_ADDED)
    FALLBACK = ("added: what stays native", FILE_ADDED)
    TRANSLATIONS = ("added: translations", FILE_ADDED)
    THUNKS = ("added: thunks", THUNK)
    RUNTIME = ("added: runtime and filler", RUNTIME)
    MANIFEST = ("manifest", FILE_MANIFEST)
    NOTE = ("restore note", WAY_BACK)

    def __init__(self, label: str, rule: Rule) -> None:
        self.label = label
        self.rule = rule


COPIED = frozenset({Row.THUNKS, Row.RUNTIME, Row.NOTE})
"""Rows that are not built anew here: a rule of their own compares them, or executes them."""
NUMBERS = {row: number for number, row in enumerate(Row)}
"""The number that stands for each row in an array of bytes."""
