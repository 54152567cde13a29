# SPDX-License-Identifier: MIT
"""Does the static proof see what is wrong with code out of line, or with code that had to stay?"""

from __future__ import annotations

import struct
from functools import cache

import numpy as np
import pytest

from tests.recover.stripped import ship
from tests.rewrite.smallkernel import Branch, Distance, SmallKernel, Word
from vmipatch.image.elf import ElfImage
from vmipatch.recover import Recovered, recover
from vmipatch.rewrite import RewrittenImage, rewrite
from vmipatch.tables.find import find_all
from vmipatch.verify.static import check_static
from vmipatch.verify.static.outline import Window, check_windows, outline
from vmipatch.verify.static.verdict import Report

NO_PLACES = np.zeros(0, np.int64)


def kernel() -> SmallKernel:
    small = SmallKernel()
    small.text.function("start_kernel", Branch("e8", "f"), "c3")
    small.text.function("between", b"\x40" * 0x100, "fa 31c0 c3")
    small.text.function("moves", "89c8 c3")
    small.text.function("f", "31c0 fa", Branch("e8", "moves"), "c3")
    small.text.function("behind", "c3", align=1)
    small.writable().put(
        Distance("f", relocated=False), "00000000", Distance("behind", relocated=False),
        Word("moves"),
    )  # fmt: skip
    return small


@cache
def pair() -> tuple[Recovered, RewrittenImage]:
    source, relocs = ship(kernel())
    found = recover(source, relocs)
    return found, rewrite(found.kernel)


def broken(data: bytes) -> set[str]:
    found, _ = pair()
    verdict = check_static(found.image, ElfImage.parse(data, "changed"), found.fixed)
    return {rule.number for rule in verdict.totals}


def test_trampolines_hold() -> None:
    assert not broken(pair()[1].data)


def test_code_that_leads_out_of_the_kernel_does_not_lead_to_trampolines() -> None:
    """Nothing runs it, so it may hold anything; 256 MiB further on there is no kernel."""
    small = kernel()
    small.text.put("cc e9 00000010")
    source, relocs = ship(small)
    found = recover(source, relocs)
    done = rewrite(found.kernel)
    assert done.trampolines
    output = ElfImage.parse(done.data, "with trampolines")
    assert not check_static(found.image, output, found.fixed).totals


@pytest.mark.parametrize(
    ("at", "byte", "number"),
    ((0, 0x90, "VP060"), (4, 0xFB, "VP001"), (6, 1, "VP005"), (11, 1, "VP005")),
    ids=("padding", "site", "branch taken along", "way back"),
)
def test_damaged_trampoline_is_found(at: int, byte: int, number: str) -> None:
    _, done = pair()
    (trampoline,) = done.trampolines
    image = ElfImage.parse(done.data, "twin")
    data = bytearray(done.data)
    data[image.offset_of(trampoline.va + at)] ^= byte
    assert broken(bytes(data))
    assert number in broken(bytes(data)) | {"VP060"}


def test_jump_to_another_place_is_found() -> None:
    found, done = pair()
    (trampoline,) = done.trampolines
    data = bytearray(done.data)
    window_va = trampoline.window.start_va
    off = ElfImage.parse(done.data, "twin").offset_of(window_va)
    data[off + 1] ^= 1
    assert "VP005" in broken(bytes(data))
    assert found.image.read(window_va, 1) == b"\xfa"


def test_window_that_something_leads_into_is_found() -> None:
    found, _ = pair()
    start_va = kernel().va("f") + 2
    windows = [Window(start_va, start_va + 6)]
    for led_to, places in (([start_va + 1], []), ([], [start_va + 2]), ([], [start_va])):
        report = Report(hex)
        words = [np.array(each, np.int64) for each in (led_to, places)]
        check_windows(found.image, windows, words[0], words[1], find_all(found.image), report)
        assert [f.rule.number for f in report.verdict().findings] == ["VP074"]
    report = Report(hex)
    first = np.array([start_va])
    check_windows(found.image, windows, first, NO_PLACES, find_all(found.image), report)
    assert report.verdict().holds


def test_window_in_entry_code_is_found() -> None:
    """With page-table isolation it may run where the trampoline is not mapped."""
    small = kernel()
    small.text.label("__entry_text_start")
    small.text.function("entry", "31c0 fa 31c0 c3")
    small.text.label("__entry_text_end")
    small.text.function("behind it", "31c0 fa 31c0 c3")
    image = ElfImage.parse(small.build())
    for name, found in (("entry", ["VP074"]), ("behind it", [])):
        report = Report(hex)
        windows = [Window(small.va(name), small.va(name) + 5)]
        check_windows(image, windows, NO_PLACES, NO_PLACES, find_all(image), report)
        assert [f.rule.number for f in report.verdict().findings] == found


def test_window_without_room_for_a_jump_is_found() -> None:
    found, _ = pair()
    start_va = kernel().va("f")
    report = Report(hex)
    outline(found.image, [Window(start_va, start_va + 4)], report)
    outline(found.image, [Window(0x1000, 0x1010)], report)
    assert {f.rule.number for f in report.verdict().findings} == {"VP074"}
    assert not report.verdict().counts


def test_what_should_have_stayed_is_found_when_it_moved() -> None:
    found, done = pair()
    moves_va = kernel().va("moves")
    image = ElfImage.parse(done.data, "twin")
    assert image.symbols.address("moves") != moves_va
    verdict = check_static(found.image, image, [(moves_va, moves_va)])
    assert {rule.number for rule in verdict.totals} == {"VP075"}


def test_pointers_of_the_twin_lead_to_what_moved() -> None:
    _, done = pair()
    image = ElfImage.parse(done.data, "twin")
    data_va = image.section_by_name[".data"].va
    (word,) = struct.unpack("<I", image.read(data_va + 12, 4))
    assert word == image.symbols.address("moves")
