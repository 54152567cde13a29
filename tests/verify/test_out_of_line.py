# SPDX-License-Identifier: MIT
"""Does the static proof see what is wrong with code out of line, or with code that had to stay?"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from tests.recover.stripped import ship
from tests.rewrite.crowded_init import crowded_init
from tests.rewrite.smallkernel import Branch, Distance, SmallKernel, Word
from tests.verify.judged import judged
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, RAW_REL
from vmipatch.recover import Recovered, recover
from vmipatch.rewrite import RewrittenImage, plan, rewrite, trampoline
from vmipatch.tables.find import find_all
from vmipatch.verify.static import check_static
from vmipatch.verify.static.comparison import Comparison, Inputs
from vmipatch.verify.static.manifest import Manifest, read_manifest
from vmipatch.verify.static.outline import Window, outline
from vmipatch.verify.static.rules import RELOCATION_ENTRY, RELOCATION_LEADS_ELSEWHERE, Rule
from vmipatch.verify.static.verdict import Report
from vmipatch.verify.static.windows import check_whole_windows, check_windows

NO_PLACES = np.zeros(0, np.int64)


def kernel() -> SmallKernel:
    small = SmallKernel()
    small.text.function("start_kernel", Branch("e8", "f"), "c3")
    small.text.function("between", b"\x40" * 0x100, "fa 31c0 c3")
    small.text.function("moves", "89c8 c3")
    small.text.function("f", "31c0 fa", Branch("e8", "moves"), "c3")
    small.text.function("after", "c3", align=1)
    small.writable().put(
        Distance("f", relocated=False), "00000000", Distance("after", relocated=False),
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


def windows_judged(
    image: ElfImage,
    windows: Sequence[Window],
    led_to: Sequence[int] = (),
    places: Sequence[int] = (),
) -> list[str]:
    """The rules that windows break, if something points `led_to` and words are at `places`."""
    facts = {
        "original": image,
        "manifest": Manifest(0, {}, {}, windows=tuple(windows)),
        "tables": find_all(image),
        "targets": np.array(led_to, np.int64),
        "places": np.array(places, np.int64),
        "chunks": SimpleNamespace(o_va=NO_PLACES),
        "inner": NO_PLACES,
    }
    return [finding.rule.number for finding in judged(check_windows, **facts)]


def test_window_that_something_leads_into_is_found() -> None:
    found, _ = pair()
    start_va = kernel().va("f") + 2
    windows = [Window(start_va, start_va + 6)]
    for led_to, places in (([start_va + 1], []), ([], [start_va + 2]), ([], [start_va])):
        assert windows_judged(found.image, windows, led_to, places) == ["VP074"]
    assert windows_judged(found.image, windows, [start_va]) == []


def test_window_in_entry_code_is_found() -> None:
    """With page-table isolation it may run where the trampoline is not mapped."""
    small = kernel()
    small.text.label("__entry_text_start")
    small.text.function("entry", "31c0 fa 31c0 c3")
    small.text.label("__entry_text_end")
    small.text.function("after it", "31c0 fa 31c0 c3")
    image = ElfImage.parse(small.build())
    for name, found in (("entry", ["VP074"]), ("after it", [])):
        windows = [Window(small.va(name), small.va(name) + 5)]
        assert windows_judged(image, windows) == found


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


def evil(windows: Callable[[list[trampoline.Window]], list[trampoline.Window]]) -> set[str]:
    """The rules that are broken if the rewriter chooses other windows."""
    find = trampoline.find_windows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "find_windows", lambda *given: windows(find(*given)))
        source, relocs = ship(kernel())
        found = recover(source, relocs)
        done = rewrite(found.kernel)
    output = ElfImage.parse(done.data, "with other windows")
    return {rule.number for rule in check_static(found.image, output, found.fixed).totals}


def test_window_that_takes_along_what_could_stay_is_found() -> None:
    """`f` is xor, cli, call and ret: the ret need not be in the trampoline."""
    assert evil(lambda windows: windows) == set()
    assert evil(lambda windows: [replace(w, end_va=w.end_va + 1) for w in windows]) == {"VP074"}


def test_window_without_a_site_is_found() -> None:
    start_va = kernel().va("between")
    more = trampoline.Window(start_va, start_va + 6, ())
    assert evil(lambda windows: [more, *windows]) == {"VP074"}


@pytest.mark.parametrize(("first", "last"), ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1)))
def test_window_that_cuts_an_instruction_is_found(first: int, last: int) -> None:
    found, done = pair()
    output = ElfImage.parse(done.data, "twin")
    report = Report(hex)
    manifest = read_manifest(output, report)
    (window,) = manifest.windows
    cut = Window(window.start_va + first, window.end_va + last)
    inputs = Inputs(found.image, output, replace(manifest, windows=(cut,)), report, found.fixed)
    fresh = replace(inputs, report=Report(hex))
    check_whole_windows(replace(Comparison.of(inputs), inputs=fresh))
    assert {rule.number for rule in fresh.report.verdict().totals} == {"VP074"}


@pytest.mark.parametrize(
    ("field", "rule"),
    (
        ("word", RELOCATION_LEADS_ELSEWHERE),
        ("offset", RELOCATION_ENTRY),
        ("symbol", RELOCATION_ENTRY),
    ),
)
def test_wrong_word_of_a_trampoline_is_found(field: str, rule: Rule) -> None:
    small = crowded_init()
    image = small.rewrite().image
    entries = image.section_by_name[".rel.vmi.trampolines"]
    raw = np.frombuffer(image.section_bytes(entries), RAW_REL)
    first = int(np.flatnonzero(raw["info"] & 0xFF == R_386_32)[0])
    off = {"word": image.offset_of(int(raw["offset"][first]))}.get(field, entries.off + 8 * first)
    data = bytearray(image.data)
    data[off + 5 * (field == "symbol")] ^= 2
    verdict = check_static(small.image(), ElfImage.parse(bytes(data)))
    assert rule in verdict.totals
