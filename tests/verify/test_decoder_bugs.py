# SPDX-License-Identifier: MIT
"""Does the proof report it when one of the two decoders is wrong about one instruction?"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.verify.pair import build_original
from vmipatch.image.elf import ElfImage
from vmipatch.isa.decode import InstructionStream, decode
from vmipatch.isa.second import Decoded, Filler, Leaves, decode_second
from vmipatch.rewrite.rewrite import rewrite
from vmipatch.verify.static import check_static
from vmipatch.verify.static.rules import DECODERS_DISAGREE, DECODING_UNACCOUNTED

POPF = b"\x9d"

Stream = Any
Bug = Callable[[Stream, int], Stream]


def skipped(stream: Stream, at: int) -> Stream:
    """The instruction is taken for the end of the one in front."""
    return _resized(stream, at - 1, [int(stream.lens[at - 1] + stream.lens[at])], 2)


def sized_wrongly(stream: Stream, at: int) -> Stream:
    """The two-byte instruction in front is taken for two of one byte."""
    wide = next(i for i in range(at, -1, -1) if int(stream.lens[i]) == 2)
    return _resized(stream, wide, [1, 1], 1)


def _resized(stream: Stream, at: int, lens: list[int], count: int) -> Stream:
    """`count` instructions from `at` become as many as there are `lens`."""
    changed = {}
    for name in ("starts", "lens", "codes", "leaves", "widths", "fillers", "known"):
        column = getattr(stream, name, None)
        if column is not None:
            middle = np.repeat(column[at], len(lens)).astype(column.dtype)
            changed[name] = np.concatenate([column[:at], middle, column[at + count :]])
    changed["lens"][at : at + len(lens)] = lens
    ends = np.cumsum(lens)
    for step in range(1, len(lens)):
        changed["starts"][at + step] += int(ends[step - 1])
    return replace(stream, **changed)


def taken_for_a_pop(stream: InstructionStream, at: int) -> InstructionStream:
    codes = stream.codes.copy()
    pop = next(i for i in range(len(stream)) if stream.bytes_at(i) == b"\x58")
    codes[at] = codes[pop]
    return replace(stream, codes=codes)


def taken_for_a_nop(stream: Decoded, at: int) -> Decoded:
    fillers = stream.fillers.copy()
    fillers[at] = Filler.NOP
    return replace(stream, fillers=fillers)


def taken_for_a_return(stream: Decoded, at: int) -> Decoded:
    leaves = stream.leaves.copy()
    leaves[at] = Leaves.STOP
    return replace(stream, leaves=leaves)


def first_with(bug: Bug) -> Callable[..., InstructionStream]:
    def decode_wrongly(code: bytes, va: int, *known: Any, **more: Any) -> InstructionStream:
        stream = decode(code, va, *known, **more)
        found = (i for i in range(len(stream)) if stream.bytes_at(i) == POPF)
        at = next(found, None)
        return stream if at is None else bug(stream, at)

    return decode_wrongly


def second_with(bug: Bug) -> Callable[..., Decoded]:
    def decode_wrongly(code: bytes, va: int, *known: Any) -> Decoded:
        found = decode_second(code, va, *known)
        offs = (found.starts - va).tolist()
        at = next((i for i, off in enumerate(offs) if code[off : off + 1] == POPF), None)
        return found if at is None else bug(found, at)

    return decode_wrongly


def broken(original: ElfImage, output: ElfImage) -> set[str]:
    return {rule.number for rule in check_static(original, output).totals}


def patch(monkeypatch: pytest.MonkeyPatch, module: str, name: str, value: object) -> None:
    monkeypatch.setattr(importlib.import_module(module), name, value)


@pytest.mark.parametrize("bug", [skipped, sized_wrongly, taken_for_a_pop])
def test_defect_of_the_first_decoder_is_reported(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    original = build_original()
    wrong = first_with(bug)
    patch(monkeypatch, "vmipatch.scan.code", "decode", wrong)
    output = ElfImage.parse(rewrite(original).data)
    patch(monkeypatch, "vmipatch.verify.static.agreement", "decode", wrong)
    assert DECODERS_DISAGREE.number in broken(original, output)


@pytest.mark.parametrize("bug", [skipped, taken_for_a_pop])
def test_site_that_the_first_decoder_hides_is_found_by_the_second_alone(
    bug: Bug, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = build_original()
    patch(monkeypatch, "vmipatch.scan.code", "decode", first_with(bug))
    output = ElfImage.parse(rewrite(original).data)
    found = broken(original, output)
    assert DECODERS_DISAGREE.number not in found, "the proof's own copy is whole"
    assert DECODING_UNACCOUNTED.number in found


@pytest.mark.parametrize("bug", [skipped, sized_wrongly, taken_for_a_nop, taken_for_a_return])
def test_defect_of_the_second_decoder_is_reported(
    bug: Bug, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = build_original()
    output = ElfImage.parse(rewrite(original).data)
    assert not broken(original, output)
    patch(monkeypatch, "vmipatch.verify.static.side", "decode_second", second_with(bug))
    assert DECODERS_DISAGREE.number in broken(original, output)
