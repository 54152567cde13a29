# SPDX-License-Identifier: MIT
"""Is a sensitive decoding found at every byte where there is one, and nowhere else?"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.isa.encodings import examples
from vmipatch.isa import anywhere
from vmipatch.isa.anywhere import LONGEST, SENSITIVE, is_sensitive, sensitive_anywhere
from vmipatch.isa.classify import classify, split_prefixes
from vmipatch.isa.forms import Form

_OCTETS = bytes.fromhex("66 3e f2 f3 0f 01 38 3a 80 82 fa 10 09 37 ae f0 f5 f8 dc ff c5 e8 78 30")


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


@given(st.lists(st.sampled_from(list(_OCTETS))))
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


@pytest.mark.parametrize("form", SENSITIVE, ids=lambda form: form.name)
@pytest.mark.parametrize("prefix", ["", "66", "f2", "f3", "3e", "66f3", "f266"])
def test_every_row_is_found_with_any_prefixes(form: Form, prefix: str) -> None:
    for code in examples(form):
        for octets in (bytes.fromhex(prefix) + code, bytes.fromhex(prefix) + code[-7:]):
            assert found(octets) == expected(octets), octets.hex()
