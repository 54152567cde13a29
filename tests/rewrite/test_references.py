# SPDX-License-Identifier: MIT
"""Do words that refer to moved code point to where it is now, whatever way they say it?"""

from __future__ import annotations

import struct

import pytest

from tests.rewrite.smallkernel import (
    DATA_VA,
    INIT_DATA_VA,
    PAGE,
    RODATA_VA,
    Branch,
    Distance,
    SmallKernel,
    Word,
)
from tests.support.elfbuilder import PAGE_OFFSET, RODATA
from vmipatch.errors import UnclassifiedReference

FOUR_SITES = "fa fa fa fa"
"""cli four times: grows by 16 bytes."""
CLI = "3e3e3e3efa"


def test_pointers_follow_their_functions() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", FOUR_SITES, Branch("e8", "g"), "c3")
    kernel.text.function("g", "c3", filler=b"\xcc")
    pointers = kernel.rodata().put(Word("f"), Word("g"), Distance("g"))
    done = kernel.rewrite()
    assert done.code("f", 20) == bytes.fromhex(CLI * 4)
    assert done.target(done.va("f") + 21) == done.va("g")
    assert done.word(pointers) == done.va("f")
    assert done.word(pointers + 4) == done.va("g")
    assert done.pointee(pointers + 8) == done.va("g")


def test_word_inside_of_a_function_leads_to_its_instruction() -> None:
    """A switch table: section symbol and addend, or function and addend."""
    kernel = SmallKernel()
    start = kernel.text.function("f", FOUR_SITES, "90 40 fa 41 c3")
    kernel.labels[".Lcase"] = (start + 5, 0, 0)
    kernel.labels[".Llater"] = (start + 7, 0, 0)
    table = kernel.rodata().put(Word(".Lcase"), Word(".Llater"), Word("f", 5), Word("f", 7))
    done = kernel.rewrite()
    assert done.word(table) == done.word(table + 8) == done.va("f") + 21
    assert done.word(table + 4) == done.word(table + 12) == done.va("f") + 27
    assert done.image.read(done.word(table), 1) == b"\x40"
    assert done.image.read(done.word(table + 4), 1) == b"\x41"


def test_addend_outside_of_its_symbol_stays_with_the_symbol() -> None:
    """`irq_entries_start - 0x100`: the sum lands in another function, which moves differently."""
    kernel = SmallKernel()
    kernel.text.function("before", FOUR_SITES * 3, "c3" * 0x100)
    kernel.text.function("stubs", "6a00 c3", filler=b"\xcc")
    word = kernel.rodata().put(Word("stubs", -0x100), Word("stubs", 0x40), Word("_text", 4095))
    kernel.text.function("after", FOUR_SITES, "c3")
    in_code = kernel.text.function("user", "b8", Word("stubs", -0x100), "c3") + 1
    old = kernel.va("stubs")
    done = kernel.rewrite()
    moved = done.va("stubs") - old
    assert moved != done.va("before") - kernel.va("before")
    assert done.word(word) == old - 0x100 + moved
    assert done.word(word + 4) == old + 0x40 + moved
    assert done.word(word + 8) == kernel.va("_text") + 4095
    assert done.word(done.done.placement.map.one(in_code)) == done.word(word)


def test_physical_words_follow_their_functions() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", FOUR_SITES, "c3")
    kernel.text.function("g", "b8", Word("table", physical=True), "fa c3")
    rodata = kernel.rodata()
    rodata.label("table")
    word = rodata.put(Word("h", physical=True), Word("table", 8, physical=True))
    # What follows the write of CR0 is widened, but for what a physical word points to.
    start = kernel.text.function("h", "b800000080 0f22c0", FOUR_SITES, "40 c3")
    kernel.labels[".Linside"] = (start + 12, 0, 0)
    inside = rodata.put(Word(".Linside", physical=True), Word("h", 12, physical=True))
    done = kernel.rewrite()
    assert done.va("h") != kernel.va("h") or done.va("g") != kernel.va("g")
    assert done.word(word) == done.va("h") - PAGE_OFFSET
    assert done.word(word + 4) == RODATA_VA + 8 - PAGE_OFFSET
    assert done.word(inside) == done.word(inside + 4) == done.va("h") + 28 - PAGE_OFFSET
    assert done.word(done.va("g") + 1) == RODATA_VA - PAGE_OFFSET


def test_mcount_words_are_believed_and_their_relocations_are_not() -> None:
    """The build sorts __mcount_loc after the link: values are right, symbols are not."""
    kernel = SmallKernel()
    kernel.text.function("trace", "c3")
    kernel.text.function("f", FOUR_SITES, "c3")
    for name in ("g", "h"):
        kernel.text.function(name, Branch("e8", "trace"), FOUR_SITES, "c3", filler=b"\xcc")
    table = kernel.block(".init.data", INIT_DATA_VA, RODATA)
    start = table.put(Word("g", named="h"), Word("h", named="g"))
    kernel.bounds("__start_mcount_loc", "__stop_mcount_loc", table)
    done = kernel.rewrite()
    assert [done.word(start), done.word(start + 4)] == [done.va("g"), done.va("h")]
    assert done.code("g", 1) == done.code("h", 1) == b"\xe8"


def exception_kernel() -> tuple[SmallKernel, int]:
    """rdmsr with a fix-up after other sites; the build has cleared the table's relocations."""
    kernel = SmallKernel()
    start = kernel.text.function("f", FOUR_SITES, "0f32 c3", FOUR_SITES, "31c0 c3")
    kernel.labels[".Lrdmsr"] = (start + 4, 0, 0)
    kernel.labels[".Lfixup"] = (start + 11, 0, 0)
    table = kernel.block("__ex_table", RODATA_VA, RODATA)
    entry = table.put(
        Distance(".Lrdmsr", relocated=False), Distance(".Lfixup", relocated=False), "03000000"
    )
    kernel.bounds("__start___ex_table", "__stop___ex_table", table)
    return kernel, entry


def test_exception_table_without_relocations_follows_its_sites() -> None:
    kernel, entry = exception_kernel()
    done = kernel.rewrite()
    insn, fixup = done.pointee(entry), done.pointee(entry + 4)
    # A fault at a site reports the address of its first prefix.
    assert done.image.read(insn, 5) == bytes.fromhex("3e3e3e 0f32")
    assert done.image.read(fixup, 3) == bytes.fromhex("31c0 c3")
    assert insn == done.va("f") + 20
    assert done.word(entry + 8) == 3


def test_static_call_trampolines_keep_their_eight_bytes() -> None:
    """A decoder that splits ud1 would let the signature lose a byte, and the kernel would stop."""
    kernel = SmallKernel()
    kernel.text.function("f", FOUR_SITES, "c3")
    kernel.text.align(16, b"\xcc")
    kernel.text.label("__static_call_text_start")
    for name in ("one", "two"):
        kernel.text.function(name, Branch("e9", "f"), "0fb9cc", align=8, filler=b"\xcc")
    kernel.text.function("three", "c3 cccccccc 0fb9cc", align=8)
    kernel.text.label("__static_call_text_end")
    kernel.text.function("g", FOUR_SITES, "c3")
    done = kernel.rewrite()
    assert done.va("two") - done.va("one") == done.va("three") - done.va("two") == 8
    for name in ("one", "two"):
        trampoline = done.code(name, 8)
        assert (trampoline[:1], trampoline[5:]) == (b"\xe9", b"\x0f\xb9\xcc")
        assert done.target(done.va(name) + 1) == done.va("f")
    assert done.code("three", 8) == bytes.fromhex("c3 cccccccc 0fb9cc")


def test_data_words_stay_when_nothing_after_text_moves() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", FOUR_SITES, "c3")
    data = kernel.writable()
    data.label("variable")
    word = data.put("11223344", Word("variable", 0x10), Word("f"))
    done = kernel.rewrite()
    assert not done.is_shifted
    assert done.va("variable") == DATA_VA
    assert done.word(word) == 0x44332211
    assert done.word(word + 4) == DATA_VA + 0x10
    assert done.word(word + 8) == done.va("f")


def test_word_of_a_code_section_that_points_outside_is_refused() -> None:
    """Section symbol and an addend beyond the section: what moves is unknown."""
    kernel = SmallKernel()
    kernel.text.function("f", FOUR_SITES, "c3")
    kernel.labels[".Lnowhere"] = (kernel.text.end_va, 0, 0)
    kernel.rodata().put(Word(".Lnowhere", 3 * PAGE))
    with pytest.raises(UnclassifiedReference, match="points outside") as caught:
        kernel.rewrite()
    assert caught.value.place


def test_new_relocations_name_the_moved_words() -> None:
    """A later step (a relocatable bzImage) reads .rel.text of the new file."""
    kernel = SmallKernel()
    kernel.text.function("f", FOUR_SITES, "b8", Word("f"), "c3")
    done = kernel.rewrite()
    rel = done.image.section_bytes(done.image.section_by_name[".rel.text"])
    places = [place for place, _ in struct.iter_unpack("<II", rel)]
    assert places == [done.va("behind_head") + 1, done.va("f") + 21]
    assert [done.word(place) for place in places] == [done.va("_text"), done.va("f")]
