# SPDX-License-Identifier: MIT
"""Do both decoders tell what a linker put between functions from instructions?"""

from __future__ import annotations

from itertools import product

import pytest

from vmipatch.isa.decode import Shape, decode
from vmipatch.isa.fill import is_link_fill
from vmipatch.isa.second import Filler, Leaves, decode_second

VA = 0xC1000000
LLD = {"3.x to 6.x": "0000cccc", "up to 5.0": "00009090"}
"""Fillers that lld makes of the linker script's =0xcccc and =0x9090."""
RET, CALL, ADD = "c3", "e8 00100000", "00c0"


def fills_of(code: str, labels: tuple[int, ...], ends: tuple[int, ...] = ()) -> list[int]:
    """Offsets of the bytes that a linker filled; both decoders say the same."""
    octets = bytes.fromhex(code)
    vas, end_vas = [VA + off for off in labels], [VA + off for off in ends]
    first, second = decode(octets, VA, vas, ends=end_vas), decode_second(octets, VA, vas, end_vas)
    assert first.starts.tolist() == second.starts.tolist()
    by_first = (first.starts[first.shapes == Shape.LINK_FILL] - VA).tolist()
    assert by_first == (second.starts[second.fillers == Filler.LINK_FILL] - VA).tolist()
    assert all(second.leaves[second.fillers == Filler.LINK_FILL] == Leaves.STOP)
    return [int(off) for off in by_first]


@pytest.mark.parametrize(("pattern", "length"), [*product(LLD.values(), range(1, 18))])
def test_gap_is_filler_however_it_is_cut(pattern: str, length: int) -> None:
    gap = (bytes.fromhex(pattern) * 5)[:length].hex()
    assert fills_of(f"{RET} {gap} 55 {RET}", (1 + length,)) == list(range(1, 1 + length))


@pytest.mark.parametrize("length", range(1, 9))
def test_zeros_are_filler_however_many(length: int) -> None:
    assert fills_of(f"{RET} {'00' * length} 55 {RET}", (1 + length,)) == [*range(1, 1 + length)]


def test_gap_after_gap_is_filler() -> None:
    """An empty section lies between two that are aligned."""
    for first, second in product(range(1, 6), range(1, 6)):
        gaps = (b"\0\0\xcc\xcc" * 2)[:first] + (b"\0\0\xcc\xcc" * 2)[:second]
        assert is_link_fill(gaps), gaps.hex(" ")


@pytest.mark.parametrize("run", ["cc", "00cc", "0000cccccc", "0000cc00cc", "0000cc90", "000001"])
def test_other_bytes_are_no_filler(run: str) -> None:
    assert not is_link_fill(bytes.fromhex(run))


def test_gap_follows_a_call_that_does_not_return_or_the_end_of_a_function() -> None:
    assert fills_of(f"{CALL} 000000 55 {RET}", (8,)) == [5, 6, 7]
    assert fills_of(f"{ADD} 000000 55 {RET}", (5,), ends=(2,)) == [2, 3, 4]
    assert fills_of(f"{ADD} 000000", (), ends=(2,)) == [2, 3, 4], "the section ends"
    assert fills_of(f"{RET} 8d7600 00 55 {RET}", (5,)) == [4], "the assembler's filler comes first"


def test_zeros_that_control_runs_into_are_instructions() -> None:
    assert fills_of(f"{ADD} 0000 55 {RET}", (4,)) == []
    assert fills_of(f"{RET} 55 0000 {RET}", (1,)) == []
    assert fills_of(f"{RET} 0000 55 {RET}", ()) == [], "nothing begins after them"


NOPS = (
    "90", "6690", "666690", "89f6", "8bc0", "8d36", "8d7600", "8d0420", "8d442000", "3e8d0420",
    "8d742600", "2e8d742600", "8db600000000", "8d8000000000", "8d040500000000", "8db42600000000",
    "8dbc2700000000", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000",
)  # fmt: skip
"""include/asm-i386/processor.h of 2.6.16 (generic, K8, K7), asm/nops.h (P6), and those of gas."""
NO_NOPS = ("8d0440", "8d4420 01", "8d3e", "8d042500000000", "8d040d00000000", "8d044500000000",
           "0f1804 24", "0f1900", "0f1d00", "668d36", "89f7")  # fmt: skip
"""Scaled, displaced, of other registers, hints without a name, 16 bits."""


@pytest.mark.parametrize("code", [*NOPS, *NO_NOPS])
def test_both_decoders_know_the_same_nops(code: str) -> None:
    octets = bytes.fromhex(code)
    first, second = decode(octets, VA), decode_second(octets, VA)
    assert first.lens.tolist() == second.lens.tolist() == [len(octets)]
    assert (int(first.shapes[0]) == Shape.NOP) is (code in NOPS)
    assert (int(second.fillers[0]) == Filler.NOP) is (code in NOPS)
