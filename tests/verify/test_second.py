# SPDX-License-Identifier: MIT
"""Does the second decoder find the instructions that the first one finds?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import KernelFinder
from vmipatch.image.elf import ElfImage
from vmipatch.isa.decode import Shape, decode
from vmipatch.isa.second import Filler, Leaves, decode_second, instruction_len

VA = 0xC1000000

LENGTHS = [
    ("0fb9cc", "ud1 with a register"),
    ("0fb94c2404", "ud1 with SIB and displacement"),
    ("660fb9cc", "ud1 with a prefix"),
    ("0f01e8", "serialize"),
    ("ff1d00000000", "far call through memory"),
    ("f00fc708", "lock cmpxchg8b"),
    ("3e3e3e3efa", "cli with redundant prefixes"),
    ("8db42600000000", "a long nop"),
]
BRANCHES = [
    ("e800000000", Leaves.CALL, 4),
    ("e900000000", Leaves.JUMP, 4),
    ("eb00", Leaves.JUMP, 1),
    ("7500", Leaves.CONDITION, 1),
    ("3e7500", Leaves.CONDITION, 1),
    ("0f8500000000", Leaves.CONDITION, 4),
    ("e2fe", Leaves.LOOP, 1),
    ("e300", Leaves.LOOP, 1),
    ("66e80000", Leaves.NARROW, 0),
    ("ff10", Leaves.NEXT, 0),
    ("ff18", Leaves.NEXT, 0),
    ("ff20", Leaves.STOP, 0),
    ("ff28", Leaves.STOP, 0),
    ("9a000000001000", Leaves.NEXT, 0),
    ("ea000000001000", Leaves.STOP, 0),
    ("c3", Leaves.STOP, 0),
    ("cf", Leaves.STOP, 0),
    ("0f35", Leaves.STOP, 0),
    ("0f0b", Leaves.NEXT, 0),
]
FILLERS = [
    ("90", Filler.NOP),
    ("6690", Filler.NOP),
    ("0f1f4000", Filler.NOP),
    ("89f6", Filler.NOP),
    ("8d7600", Filler.NOP),
    ("8d742600", Filler.NOP),
    ("3e8d742600", Filler.NOP),
    ("8db600000000", Filler.NOP),
    ("8d36", Filler.NOP),
    ("cc", Filler.INT3),
    ("8d7601", Filler.CODE),
    ("8d5600", Filler.CODE),
    ("8d743600", Filler.CODE),
    ("8d0d00000000", Filler.CODE),
    ("89fe", Filler.CODE),
    ("f390", Filler.CODE),
]


@pytest.mark.parametrize(("code", "what"), LENGTHS)
def test_instruction_has_its_length(code: str, what: str) -> None:
    octets = bytes.fromhex(code)
    assert instruction_len(octets + b"\x90" * 8) == len(octets), what


@pytest.mark.parametrize(("code", "leaves", "width"), BRANCHES)
def test_branch_is_told_from_other_code(code: str, leaves: Leaves, width: int) -> None:
    decoded = decode_second(bytes.fromhex(code), VA)
    assert (int(decoded.leaves[0]), int(decoded.widths[0])) == (leaves, width)


@pytest.mark.parametrize(("code", "filler"), FILLERS)
def test_filler_is_told_from_code(code: str, filler: Filler) -> None:
    decoded = decode_second(bytes.fromhex(code), VA)
    assert decoded.fillers.tolist() == [filler]


def test_unknown_byte_counts_as_one() -> None:
    decoded = decode_second(bytes.fromhex("0f0490"), VA)
    assert decoded.known.tolist()[0] is False
    assert int(decoded.lens[0]) == 1


def test_decoding_begins_anew_at_a_split() -> None:
    decoded = decode_second(bytes.fromhex("b8c3c3c3c3"), VA, [VA + 1])
    assert decoded.starts.tolist() == [VA, VA + 1, VA + 2, VA + 3, VA + 4]


@given(st.binary(max_size=200), st.lists(st.integers(VA, VA + 200), max_size=5))
def test_every_byte_belongs_to_one_instruction(code: bytes, splits: list[int]) -> None:
    decoded = decode_second(code, VA, splits)
    ends = decoded.starts + decoded.lens
    assert int(decoded.lens.sum()) == len(code)
    assert np.array_equal(ends[:-1], decoded.starts[1:])
    assert {s for s in splits if s < VA + len(code)} <= set(decoded.starts.tolist())


def test_windows_do_not_show() -> None:
    code = bytes.fromhex("b8010000009031c0") * 20_000
    decoded = decode_second(code, VA)
    assert decoded.lens.tolist() == [5, 1, 2] * 20_000


@pytest.mark.kernels
def test_both_decoders_agree_on_a_kernel(kernel: KernelFinder) -> None:
    image = ElfImage.parse(kernel("tiny").read_bytes(), "tiny")
    for section in image.executable_sections:
        starts = [s.va for s in image.symbols if s.section == section.index]
        code = image.section_bytes(section)
        first, second = decode(code, section.va, starts), decode_second(code, section.va, starts)
        assert np.array_equal(first.starts, second.starts)
        assert np.array_equal(first.shapes == Shape.INT3, second.fillers == Filler.INT3)
        assert np.array_equal(first.shapes == Shape.NOP, second.fillers == Filler.NOP)
        assert second.known.all()
