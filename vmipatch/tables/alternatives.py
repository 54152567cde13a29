# SPDX-License-Identifier: MIT
""".altinstructions: which instructions does the kernel replace when it knows the processor.

`struct alt_instr`, 12 bytes with absolute words and a byte of `cpuid`
(include/asm-i386/alternative.h of 2.6.18: the last byte is filling and may be missing at the end;
later builds keep a proof there that the replacement is short enough), with two bytes of `cpuid`
from 2.6.36 or so (arch/x86/include/asm/alternative.h of 2.6.39), with relative words from 3.1
(3.6); from 4.1 to 5.13 13 bytes, with the length of the nops at the original's end (4.4); then 12
again (6.1); from 6.3 on 14 bytes, with flags of their own (6.6).

2.6.17 and 2.6.18 have a second table with the code of one processor alone.

Several entries may name one original: the last whose feature is there wins, so that the order of
the entries must be kept. A replacement word of 0 with a length of 0 names none, absolute or not:
the original becomes nops (`__static_cpu_has` and `_static_cpu_has` of
arch/x86/include/asm/cpufeature.h, 2.6.35 to 4.17).
Places are the original and, where there is one, the replacement of each entry in turn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout, nonzero
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import PLACE, U32, Mask, Role, TableName, WordForm

REPLACEMENT_SECTION = ".altinstr_replacement"
SMP_REPLACEMENT_SECTION = ".smp_altinstr_replacement"
INVERTED = 0x8000
"""Bit of `cpuid`: replace when the feature is missing."""
FLAGS = 2
"""How many of `flags` are known: the feature must be missing; the replacement is a direct call in
place of one through a pointer (ALT_FLAG_NOT, ALT_FLAG_DIRECT_CALL)."""
FEATURE_LIMIT = 32 * 32
"""No kernel has had more feature and bug words than 32."""
ABSOLUTE_FEATURE_LIMIT = 16 * 32
"""Those with absolute words have 10 at most: another layout's bytes give more."""
PROOF = 0xFF
"""Added to what the replacement is longer, in the last byte: a byte holds no positive sum."""


def _check(replacements: str) -> Callable[[Draft], None]:
    def check(draft: Draft) -> None:
        instr, replacement = draft.target("instr"), draft.target("repl")
        length = draft.entries["len"].astype(np.int64)
        repl_len = draft.entries["repl_len"].astype(np.int64)
        there = draft.view.code.hold(instr, length)
        draft.require(there & (length > 0), "has its original outside of the code", instr)
        none = ~draft.present["repl"] & (repl_len == 0)
        draft.require(
            _inside(draft, replacements, replacement, repl_len) | none,
            f"has its replacement outside of {replacements}",
            replacement,
        )
        draft.require(repl_len <= length, "has a replacement longer than the original")
        _check_rest(draft, length, repl_len)

    return check


def _check_rest(draft: Draft, length: np.ndarray, repl_len: np.ndarray) -> None:
    """Processor feature and last byte."""
    assert draft.entries.dtype.names is not None
    wide = draft.entries["cpuid"].astype(np.int64)
    absolute = (draft.words["instr"]["form"] == WordForm.ABSOLUTE).all()
    limit = ABSOLUTE_FEATURE_LIMIT if absolute else FEATURE_LIMIT
    has_flags = "flags" in draft.entries.dtype.names
    feature = wide if absolute or has_flags else wide & ~INVERTED
    draft.require(feature < limit, "names no processor feature", feature.astype(np.uint32))
    if has_flags:
        flags = draft.entries["flags"].astype(np.uint32)
        draft.require(flags >> FLAGS == 0, "has flags that no known kernel has", flags)
    if "proof" in draft.entries.dtype.names:
        proof = draft.entries["proof"].astype(np.int64)
        proven = (proof == 0) | (proof == (PROOF + repl_len - length) & 0xFF)
        draft.require(proven, "has no filling in its last byte")
    if "nops" in draft.entries.dtype.names:
        draft.require(draft.entries["nops"] <= length, "has more nops than its original is long")


def _inside(draft: Draft, name: str, va: U32, length: np.ndarray) -> Mask:
    """Whether [va, va+length) is inside of the section, its end included for length 0."""
    found = draft.view.image.section_by_name.get(name)
    if found is None:
        return np.zeros(len(va), dtype=np.bool_)
    end_va = va.astype(np.int64) + length
    return np.asarray((va >= found.va) & (end_va <= found.end_va))


def _places(draft: Draft) -> np.ndarray:
    pairs = np.zeros((len(draft), 2), PLACE)
    pairs["va"][:, 0], pairs["va"][:, 1] = draft.target("instr"), draft.target("repl")
    pairs["len"][:, 0], pairs["len"][:, 1] = draft.entries["len"], draft.entries["repl_len"]
    pairs["role"] = (Role.INSTRUCTION, Role.REPLACEMENT)
    there = np.stack([draft.present["instr"], draft.present["repl"]], axis=1)
    return pairs[there]


def _layouts(replacements: str) -> tuple[TableLayout, ...]:
    words = [("instr", "<u4"), ("repl", "<u4")]
    lengths = [("len", "u1"), ("repl_len", "u1")]

    def layout(
        name: str, form: WordForm, rest: list[tuple[str, str]], lacks_len: int = 0
    ) -> TableLayout:
        fields = (
            TableField("instr", form, Role.INSTRUCTION),
            TableField("repl", form, Role.REPLACEMENT, present=nonzero),
        )
        entry = np.dtype([*words, *rest])
        return TableLayout(name, entry, fields, _check(replacements), _places, lacks_len=lacks_len)

    return (
        layout(
            "12 bytes: s32 instr, s32 repl, u16 cpuid, u8 len, u8 repl_len",
            WordForm.RELATIVE,
            [("cpuid", "<u2"), *lengths],
        ),
        layout(
            "13 bytes: s32 instr, s32 repl, u16 cpuid, u8 len, u8 repl_len, u8 nops",
            WordForm.RELATIVE,
            [("cpuid", "<u2"), *lengths, ("nops", "u1")],
        ),
        layout(
            "14 bytes: s32 instr, s32 repl, u16 cpuid, u16 flags, u8 len, u8 repl_len",
            WordForm.RELATIVE,
            [("cpuid", "<u2"), ("flags", "<u2"), *lengths],
        ),
        layout(
            "12 bytes: u32 instr, u32 repl, u16 cpuid, u8 len, u8 repl_len",
            WordForm.ABSOLUTE,
            [("cpuid", "<u2"), *lengths],
        ),
        layout(
            "12 bytes: u32 instr, u32 repl, u8 cpuid, u8 len, u8 repl_len, filling",
            WordForm.ABSOLUTE,
            [("cpuid", "u1"), *lengths, ("proof", "u1")],
            lacks_len=1,
        ),
    )


ALTERNATIVES = TableKind(
    TableName.ALTERNATIVES,
    first_of(between("__alt_instructions", "__alt_instructions_end"), section(".altinstructions")),
    _layouts(REPLACEMENT_SECTION),
)
SMP_ALTERNATIVES = TableKind(
    TableName.SMP_ALTERNATIVES,
    first_of(
        between("__smp_alt_instructions", "__smp_alt_instructions_end"),
        section(".smp_altinstructions"),
    ),
    _layouts(SMP_REPLACEMENT_SECTION),
)
