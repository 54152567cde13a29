# SPDX-License-Identifier: MIT
"""Is a sensitive decoding found at every byte where there is one, and nowhere else?"""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from vmipatch.isa import anywhere
from vmipatch.isa.anywhere import LONGEST, SENSITIVE, is_sensitive, sensitive_anywhere
from vmipatch.isa.classify import classify, split_prefixes
from vmipatch.isa.forms import Operand


def expected(code: bytes) -> dict[int, str]:
    """One byte after the other, by the slow way."""
    found = {}
    for at in range(len(code)):
        rest = (code + bytes(2 * LONGEST))[at : at + 2 * LONGEST]
        form = classify(rest)
        if form is not None and is_sensitive(form) and len(split_prefixes(rest)[0]) < LONGEST:
            found[at] = form.name
    return found


def found(code: bytes) -> dict[int, str]:
    offs, kinds = sensitive_anywhere(code)
    return {
        off: SENSITIVE[kind].name for off, kind in zip(offs.tolist(), kinds.tolist(), strict=True)
    }


@given(st.binary(max_size=120))
def test_every_decoding_of_random_bytes_is_found(code: bytes) -> None:
    assert found(code) == expected(code)


@given(st.lists(st.sampled_from([0x66, 0x3E, 0xF3, 0x0F, 0x01, 0x38, 0x80, 0x82, 0xFA, 0x10])))
def test_prefixes_and_long_opcodes_are_found(octets: list[int]) -> None:
    assert found(bytes(octets)) == expected(bytes(octets))


def test_windows_do_not_show() -> None:
    code = random.Random(1).randbytes(500)
    whole = found(code)
    was = anywhere.WINDOW
    try:
        anywhere.WINDOW = 64
        assert found(code) == whole
    finally:
        anywhere.WINDOW = was


def test_long_opcodes_are_what_the_search_takes_them_for() -> None:
    rows = [f for f in SENSITIVE if len(f.opcode) == 3 and f.operand is not Operand.NONE]
    assert rows
    assert all(f.operand is Operand.MEMORY and f.prefix == 0x66 and f.reg is None for f in rows)
    assert all(f.prefix is None for f in SENSITIVE if f not in rows)
