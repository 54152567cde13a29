# SPDX-License-Identifier: MIT
""".altinstructions: which instructions does the kernel replace when it knows the processor.

arch/x86/include/asm/alternative.h, `struct alt_instr`. Several entries may name one original:
the last whose feature is there wins, so that the order of the entries must be kept. Places
come in pairs: entry i has original `places[2*i]` and replacement `places[2*i+1]`.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import PLACE, U32, Form, Mask, Role, TableName

REPLACEMENT_SECTION = ".altinstr_replacement"
INVERTED = 0x8000
"""Bit of `cpuid`: replace when the feature is missing."""
FEATURE_LIMIT = 32 * 32
"""No kernel has had more feature and bug words than 32."""


def _check(draft: Draft) -> None:
    instr, replacement = draft.target("instr"), draft.target("repl")
    length = draft.entries["len"].astype(np.int64)
    repl_len = draft.entries["repl_len"].astype(np.int64)
    there = draft.view.code.hold(instr, length)
    draft.require(there & (length > 0), "has its original outside of the code", instr)
    draft.require(
        _in_replacements(draft, replacement, repl_len),
        f"has its replacement outside of {REPLACEMENT_SECTION}",
        replacement,
    )
    draft.require(repl_len <= length, "has a replacement longer than the original")
    feature = draft.entries["cpuid"] & ~np.uint16(INVERTED)
    draft.require(feature < FEATURE_LIMIT, "names no processor feature", feature)


def _in_replacements(draft: Draft, va: U32, length: np.ndarray) -> Mask:
    """Whether [va, va+length) is inside of the section, its end included for length 0."""
    found = draft.view.image.section_by_name.get(REPLACEMENT_SECTION)
    if found is None:
        return np.zeros(len(va), dtype=np.bool_)
    end_va = va.astype(np.int64) + length
    return np.asarray((va >= found.va) & (end_va <= found.end_va))


def _places(draft: Draft) -> np.ndarray:
    pairs = np.zeros((len(draft), 2), PLACE)
    pairs["va"][:, 0], pairs["va"][:, 1] = draft.target("instr"), draft.target("repl")
    pairs["len"][:, 0], pairs["len"][:, 1] = draft.entries["len"], draft.entries["repl_len"]
    pairs["role"] = (Role.INSTRUCTION, Role.REPLACEMENT)
    return pairs.reshape(-1)


ALTERNATIVES = TableKind(
    TableName.ALTERNATIVES,
    first_of(between("__alt_instructions", "__alt_instructions_end"), section(".altinstructions")),
    (
        Layout(
            "12 bytes: s32 instr, s32 repl, u16 cpuid, u8 len, u8 repl_len",
            np.dtype(
                [
                    ("instr", "<u4"),
                    ("repl", "<u4"),
                    ("cpuid", "<u2"),
                    ("len", "u1"),
                    ("repl_len", "u1"),
                ]
            ),
            (
                Field("instr", Form.RELATIVE, Role.INSTRUCTION),
                Field("repl", Form.RELATIVE, Role.REPLACEMENT),
            ),
            _check,
            _places,
        ),
    ),
)
