# SPDX-License-Identifier: MIT
"""Do both decoders begin anew where an instruction is known to begin, and only there?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmipatch.isa.decode import decode
from vmipatch.isa.second import decode_second

VA = 0xC1000000
MOV_EAX = b"\xb8\x90\x90\x90\x90"
Instructions = list[tuple[int, int, bool]]
"""Start, length, and whether the bytes are an instruction."""


def _by_first(code: bytes, va: int, splits: Sequence[int] = ()) -> Instructions:
    stream = decode(code, va, splits)
    known = (stream.codes != 0).tolist()
    return list(zip(stream.starts.tolist(), stream.lens.tolist(), known, strict=True))


def _by_second(code: bytes, va: int, splits: Sequence[int] = ()) -> Instructions:
    found = decode_second(code, va, splits)
    rows = found.starts.tolist(), found.lens.tolist(), found.known.tolist()
    return list(zip(*rows, strict=True))


WITHOUT_FILLS = st.binary(max_size=60).map(lambda code: code.replace(b"\0", b"\1"))
"""The bytes of a linker's fill depend on what stands in front of it."""
Decoder = Callable[..., Instructions]
both = pytest.mark.parametrize("decoder", [_by_first, _by_second])


@both
def test_instruction_does_not_run_over_a_split(decoder: Decoder) -> None:
    found = decoder(MOV_EAX, VA, [VA + 1])
    assert found == [(VA, 1, False), *((VA + at, 1, True) for at in range(1, 5))]


@both
def test_split_at_a_boundary_changes_nothing(decoder: Decoder) -> None:
    assert decoder(2 * MOV_EAX, VA, [VA + 5]) == decoder(2 * MOV_EAX, VA)


@both
@settings(max_examples=200)
@given(WITHOUT_FILLS, st.lists(st.integers(0, 60), max_size=4))
def test_splits_are_as_if_the_parts_were_decoded_one_by_one(
    decoder: Decoder, code: bytes, offs: list[int]
) -> None:
    inner = sorted({off for off in offs if 0 < off < len(code)})
    parts = [
        decoder(code[low:high], VA + low)
        for low, high in pairwise([0, *inner, len(code)])
        if low < high
    ]
    assert decoder(code, VA, [VA + off for off in offs]) == [row for part in parts for row in part]
