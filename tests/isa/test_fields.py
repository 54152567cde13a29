# SPDX-License-Identifier: MIT
"""Is every constant of 32 bits in code found, and told what it is?"""

from __future__ import annotations

import pytest

from vmipatch.isa.fields import FieldKind, wide_fields

VA = 0x1000
SAMPLES = [
    ("8d 83 00e0ffff", [(2, FieldKind.DISPLACEMENT, -0x2000)]),
    ("81 c2 f3ef5700", [(2, FieldKind.IMMEDIATE, 0x57EFF3)]),
    ("a1 78563412", [(1, FieldKind.DISPLACEMENT, 0x12345678)]),
    ("c7 83 00010000 ffffffff", [(2, FieldKind.DISPLACEMENT, 256), (6, FieldKind.IMMEDIATE, -1)]),
    ("e8 00000000", [(1, FieldKind.BRANCH, VA + 5)]),
    ("e9 fbffffff", [(1, FieldKind.BRANCH, VA)]),
    ("0f 84 00010000", [(2, FieldKind.BRANCH, VA + 6 + 256)]),
    ("eb fe", []),
    ("6a 01", []),
    ("66 b8 0102", []),
    ("8b 44 24 04", []),
]


@pytest.mark.parametrize(("code", "expected"), SAMPLES, ids=[code for code, _ in SAMPLES])
def test_constants_are_found(code: str, expected: list[tuple[int, FieldKind, int]]) -> None:
    found = [(f.va - VA, f.kind, f.value) for f in wide_fields(bytes.fromhex(code), VA)]
    assert found == expected


def test_search_ends_where_no_code_is() -> None:
    code = bytes.fromhex("b8 01000000 ffff b8 02000000")
    assert [f.value for f in wide_fields(code, VA)] == [1]
