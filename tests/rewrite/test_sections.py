# SPDX-License-Identifier: MIT
"""Which sections move when code grows, how far, and does everything that names them follow?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.rewrite.crowded_init import crowded_init
from tests.rewrite.smallkernel import (
    DATA_VA,
    INIT_DATA_VA,
    INIT_TEXT_VA,
    INT3,
    PAGE,
    RODATA_VA,
    TEXT_VA,
    Branch,
    Distance,
    RewrittenSmall,
    SmallKernel,
    Word,
)
from tests.support.elfbuilder import DATA, PAGE_OFFSET, RODATA, TEXT
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, R_386_PC32, Relocations
from vmipatch.image.symbols import STT_OBJECT, SYMBOL, SymbolTable
from vmipatch.image.types import SectionKind
from vmipatch.restore import restore
from vmipatch.scan.site import Disposition, Reason
from vmipatch.verify.static import check_static

CLI = "3e3e3e3efa"


def full_kernel(*, room: bool) -> SmallKernel:
    """A kernel with a bit of everything that refers to everything else."""
    kernel = SmallKernel(room=room)
    kernel.text.function("f", "fa " * 8, "a1", Word("variable"), "c3")
    kernel.text.function("g", Branch("e8", "f"), Branch("e8", "setup"), "c3")
    kernel.text.label("_etext")
    rodata = kernel.rodata()
    rodata.label("constants")
    rodata.put(Word("f"), Word("variable"), Distance("f"), Word("_etext"), Word("constants", 8))
    data = kernel.writable()
    data.label("variable")
    # Section symbol and an addend beyond that section: a base that the compiler has biased.
    kernel.labels[".Lbiased"] = (DATA_VA, 0, 0)
    data.put(Word("variable", 4), Word("constants"), Word(".Lbiased", 0x8000), Word("g"))
    data.put(Word("constants", physical=True), Distance("constants"))
    init = kernel.block(".init.text", INIT_TEXT_VA, TEXT)
    init.function("setup", "fb", Branch("e8", "g"), "a1", Word("variable"), "c3")
    kernel.block(".init.data", INIT_DATA_VA, DATA).put(Word("setup"), Word("f"))
    return kernel


def kernel_that_ends_with_modinfo() -> SmallKernel:
    """Bytes after .bss, whose zeros are in the file for them, as in Linux since 6.17."""
    kernel = full_kernel(room=False)
    bss_va = INIT_DATA_VA + PAGE
    blocks = {block.name: block for block in kernel.blocks}
    blocks[".init.text"].put(INT3 * PAGE)
    blocks[".init.data"].align(PAGE, bytes(1))
    kernel.block(".bss", bss_va, DATA).put(bytes(2 * PAGE))
    kernel.block(".modinfo", bss_va + 2 * PAGE, DATA).put(b"license=GPL\0")
    kernel.zeros.append(".bss")
    return kernel


def test_zeros_of_bss_may_be_in_the_file() -> None:
    kernel = kernel_that_ends_with_modinfo()
    done = kernel.rewrite()
    assert check_static(kernel.image(), done.image).findings == ()
    section = done.image.section_by_name[".modinfo"]
    assert done.image.section_bytes(section) == b"license=GPL\0"
    assert min(s.va for s in done.image.sections if s.name == ".vmi.annotation") > section.va


def test_byte_in_the_file_where_bss_is_fails_the_proof() -> None:
    kernel = kernel_that_ends_with_modinfo()
    done = kernel.rewrite()
    bss = done.image.section_by_name[".bss"]
    load = next(s for s in done.image.loads if s.va <= bss.va < s.va + s.mem_len)
    wrong = bytearray(done.image.data)
    wrong[load.off + bss.end_va - 1 - load.va] = 1
    findings = check_static(kernel.image(), ElfImage.parse(bytes(wrong))).findings
    assert [(f.rule.number, f.va) for f in findings] == [("VP051", bss.va)]


@pytest.fixture(params=[True, False], ids=["absorb", "shift"])
def done(request: pytest.FixtureRequest) -> RewrittenSmall:
    """The full kernel, rewritten in both modes."""
    return full_kernel(room=request.param).rewrite()


@pytest.mark.parametrize("room", [True, False], ids=["absorb", "shift"])
@pytest.mark.parametrize("entry", ["late_head", "behind_sites"])
def test_loader_enters_where_it_did(room: bool, entry: str) -> None:
    """Linux 7.2 has startup_32 in .init.text; what grows before it moves it there, too."""
    kernel = full_kernel(room=room)
    kernel.text.function("behind_sites", "90 b800000080 0f22c0 c3")
    init = next(block for block in kernel.blocks if block.name == ".init.text")
    init.function("late_head", "90 b800000080 0f22c0 c3", align=1)
    init.put(INT3 * PAGE)
    kernel.entry = entry
    done = kernel.rewrite()
    assert done.va(entry) != kernel.va(entry)
    assert done.image.entry == done.va(entry) - PAGE_OFFSET
    assert check_static(kernel.image(), done.image).findings == ()


def test_mode_follows_from_the_padding_there_is(done: RewrittenSmall) -> None:
    has_room = done.va("startup_32") + 0x4000 < done.kernel.va("f")
    assert done.is_shifted is not has_room
    assert done.done.manifest.mode == ("absorb" if has_room else "shift")
    assert done.done.manifest.shift_len % PAGE == 0


@pytest.mark.parametrize("room", [True, False], ids=["absorb", "shift"])
def test_a_section_right_after_the_code_is_not_overwritten(room: bool) -> None:
    """Up to 4.x the exception table begins in the last page of .text."""
    kernel = SmallKernel(room=room)
    kernel.text.function("f", "fa " * 8, "c3")
    near = kernel.block(".near", -(-kernel.text.end_va // 16) * 16, TEXT, 16)
    near.put(b"\x55" * 8)
    kernel.rodata().put(Word("f"))
    done = kernel.rewrite()
    section = done.image.section_by_name[".near"]
    assert done.image.section_bytes(section) == b"\x55" * 8
    assert section.va == near.va + done.done.placement.shift_len
    assert done.is_shifted is not room
    assert check_static(kernel.image(), done.image).holds


def test_notes_are_no_code_whatever_their_flags_say() -> None:
    """Up to 4.x the linker gives them those of the segment they share with .text."""
    section = full_kernel(room=True).image().section_by_name[".text"]
    assert section.is_exec
    assert not replace(section, kind=SectionKind.NOTE).is_exec


def test_sections_after_text_move_by_the_same_whole_pages(done: RewrittenSmall) -> None:
    shift = done.done.placement.shift_len
    for block in done.kernel.blocks[1:]:
        assert done.image.section_by_name[block.name].va == block.va + shift
    assert done.image.section_by_name[".text"].va == TEXT_VA
    for old, new in zip(done.kernel.image().loads, done.image.loads, strict=False):
        assert new.va - old.va == new.pa - old.pa == (shift if old.va > TEXT_VA else 0)


def test_segments_hold_every_byte_of_their_sections(done: RewrittenSmall) -> None:
    """Here, unlike in Linux, .text and .init.text have segments of their own."""
    for section in (s for s in done.image.allocated_sections if s.size):
        holders = [s for s in done.image.loads if s.va <= section.va < s.va + s.mem_len]
        assert len(holders) == 1, section.name
        assert section.off - holders[0].off == section.va - holders[0].va
        assert section.end_va <= holders[0].va + holders[0].file_len
        assert holders[0].va - holders[0].pa == PAGE_OFFSET


def test_words_between_data_sections_follow(done: RewrittenSmall) -> None:
    shift = done.done.placement.shift_len
    rodata, data = RODATA_VA + shift, DATA_VA + shift
    assert done.va("variable") == data
    assert done.word(rodata + 4) == data
    assert done.word(rodata + 16) == rodata + 8
    assert done.word(data) == data + 4
    assert done.word(data + 4) == rodata
    assert done.word(data + 8) == data + 0x8000
    assert done.word(data + 16) == rodata - PAGE_OFFSET
    assert done.pointee(data + 20) == rodata


def test_words_between_code_and_data_follow(done: RewrittenSmall) -> None:
    shift = done.done.placement.shift_len
    assert done.word(RODATA_VA + shift) == done.va("f")
    assert done.pointee(RODATA_VA + shift + 8) == done.va("f")
    assert done.word(RODATA_VA + shift + 12) == done.va("_etext")
    assert done.word(DATA_VA + shift + 12) == done.va("g")
    assert done.word(done.va("f") + 41) == done.va("variable")
    assert done.word(INIT_DATA_VA + shift) == done.va("setup") == INIT_TEXT_VA + shift
    assert done.word(INIT_DATA_VA + shift + 4) == done.va("f")


def test_branches_between_sections_follow(done: RewrittenSmall) -> None:
    assert done.target(done.va("g") + 1) == done.va("f")
    assert done.target(done.va("g") + 6) == done.va("setup")
    assert done.code("setup", 5) == bytes.fromhex("3e3e3e3efb")
    assert done.target(done.va("setup") + 6) == done.va("g")
    assert done.word(done.va("setup") + 11) == done.va("variable")


def test_end_of_text_stays_where_read_only_data_begins(done: RewrittenSmall) -> None:
    """_etext bounds what is executable: the added code has to lie below it."""
    text, room = (done.image.section_by_name[name] for name in (".text", ".vmi.text"))
    assert text.end_va <= room.va
    assert room.end_va <= done.image.section_by_name[".rodata"].va
    assert room.end_va == done.done.placement.room_end_va
    assert done.va("_etext") == done.kernel.va("_etext") + done.done.placement.shift_len


def test_no_section_and_no_symbol_is_lost(done: RewrittenSmall) -> None:
    before = done.kernel.image()
    assert [s.name for s in before.sections] == [
        s.name for s in done.image.sections if not s.name.startswith((".vmi.", ".rel.vmi."))
    ]
    assert [s.name for s in before.symbols] == [
        s.name for s in done.image.symbols if not s.name.startswith("__vmi_")
    ]


def test_growth_at_the_end_is_paid_for_by_early_padding() -> None:
    """Entry code at the end has hardly a pad: drift must be negative before it gets there."""
    kernel = SmallKernel()
    kernel.text.align(64)
    kernel.text.label("__entry_text_start")
    for index in range(50):
        kernel.text.function(f"entry{index}", "fa fb 9c 9d cf", align=1)
    kernel.text.put("40" * (-len(kernel.text.data) % PAGE))  # not a byte of slack in the page
    kernel.text.label("__entry_text_end")
    last = kernel.labels["entry49"][0]
    done = kernel.rewrite()
    assert not done.is_shifted
    assert done.va("entry0") < kernel.va("entry0")
    assert done.va("entry49") - done.va("entry0") == last - kernel.va("entry0") + 49 * 20
    assert done.image.section_by_name[".text"].end_va <= kernel.text.end_va
    assert done.code("entry49", 10) == bytes.fromhex("3e3e3e3efa 3e3e3e3efb")


def test_functions_with_enough_padding_after_them_do_not_move() -> None:
    """Padding gives back what the function before it took, so that most addresses stay."""
    kernel = SmallKernel(room=False)
    kernel.text.function("f", "fa c3", filler=INT3)
    kernel.text.function("g", "40 c3", filler=INT3)
    kernel.text.function("h", "fa fa fa c3", filler=INT3)
    kernel.text.align(64, INT3)
    kernel.text.function("i", "40 c3")
    done = kernel.rewrite()
    assert done.is_shifted
    for name in "fgi":
        assert done.va(name) == kernel.va(name)
    assert done.code("f", 16) == bytes.fromhex(CLI + "c3") + INT3 * 10
    assert done.va("h") == kernel.va("h")


def test_one_barrier_stays_after_a_return() -> None:
    """Int3 after a ret stops straight-line speculation: the last one may not be taken away."""
    kernel = SmallKernel(room=False)
    kernel.text.function("f", "fa fa fa c3", INT3 * 3)
    kernel.text.function("g", "c3", INT3, align=1)
    kernel.text.function("h", "c3", INT3, align=1)
    done = kernel.rewrite()
    code = done.code("f", done.va("h") + 2 - done.va("f"))
    assert code.startswith(bytes.fromhex(CLI * 3 + "c3") + INT3)
    assert code[done.va("g") - done.va("f") :] in (b"\xc3\xcc\xc3\xcc",)


def init_kernel(sites: int, aux_len: int, data_va: int = INIT_DATA_VA) -> SmallKernel:
    """.init.text with `sites` sites, and right after it a section of code that is not laid out."""
    kernel = SmallKernel()
    init = kernel.block(".init.text", INIT_TEXT_VA, TEXT)
    init.function("setup", "fb " * sites, Branch("e9", "aux"))
    aux = kernel.block(".altinstr_aux", init.end_va, TEXT)
    aux.function("aux", "f6c001", Branch("0f85", "setup"), Branch("e9", "f"), "40" * aux_len)
    kernel.text.function("f", "fa c3")
    kernel.block(".init.data", data_va, DATA).put(Word("setup"), Word("aux"))
    return kernel


def test_init_code_grows_into_the_slack_of_its_last_page() -> None:
    kernel = init_kernel(20, 0x100)
    done = kernel.rewrite()
    growth = 20 * 4
    assert done.va("setup") == INIT_TEXT_VA
    assert growth <= done.va("aux") - kernel.va("aux") < growth + 4
    assert done.target(done.va("setup") + 101) == done.va("aux")
    assert done.target(done.va("aux") + 5) == done.va("setup")
    assert done.target(done.va("aux") + 10) == done.va("f")
    assert done.word(INIT_DATA_VA) == done.va("setup")
    assert done.word(INIT_DATA_VA + 4) == done.va("aux")
    sections = done.image.section_by_name
    assert sections[".init.text"].end_va <= sections[".altinstr_aux"].va == done.va("aux")
    assert sections[".altinstr_aux"].end_va <= sections[".init.data"].va == INIT_DATA_VA


def test_init_sites_that_do_not_fit_go_out_of_line() -> None:
    """Growth of 400 bytes into a slack of 300; no byte of a later section may be overwritten."""
    kernel = init_kernel(100, PAGE - 300 - 105 - 13, INIT_TEXT_VA + PAGE)
    done = kernel.rewrite()
    native = [s for s in done.done.scan.sites if s.reason is Reason.NO_ROOM]
    assert {site.disposition for site in native} <= {Disposition.NATIVE_TRAPPING}
    moved = [va for t in done.done.trampolines for va in t.places]
    assert len(native) + len(moved) >= 25
    assert len(native) <= 4, "what is left between two windows"
    broken = {rule.number for rule in check_static(kernel.image(), done.image).totals}
    assert broken <= {"VP051"}, "the segment of .init.text alone grows, which no kernel has"
    assert restore(done.image).data == kernel.image().data
    sections = done.image.section_by_name
    assert sections[".init.text"].end_va <= sections[".altinstr_aux"].va
    assert sections[".altinstr_aux"].end_va <= sections[".init.data"].va == INIT_TEXT_VA + PAGE
    assert done.word(sections[".init.data"].va) == done.va("setup")
    widened = done.code("setup", 500).count(bytes.fromhex("3e3e3e3efb"))
    assert widened + len(native) + len(moved) == 100


def test_relocated_words_go_out_of_line_with_their_instructions() -> None:
    kernel = crowded_init()
    done = kernel.rewrite()
    assert not [s for s in done.done.scan.sites if s.reason is Reason.NO_ROOM]
    broken = {rule.number for rule in check_static(kernel.image(), done.image).totals}
    assert broken <= {"VP051"}, "the segment of .init.text alone grows, which no kernel has"
    assert restore(done.image).data == kernel.image().data
    was, now = Relocations.of(kernel.image()).entries, Relocations.of(done.image).entries
    assert sorted(was["kind"].tolist()) == sorted(now["kind"].tolist())
    section = done.image.section_by_name[".vmi.trampolines"]
    moved = now[now["section"] == section.index]
    assert len(moved) >= 10
    held = {(int(row["kind"]), _led_to(row)) for row in moved}
    known = {(R_386_32, done.va("variable")), (R_386_32, done.va("f")), (R_386_PC32, done.va("f"))}
    assert held <= known


def test_sites_of_the_exception_table_leave_their_room_to_those_without_a_trap() -> None:
    """No site has a window; the slack of 20 bytes is what five of them grow by."""
    kernel = SmallKernel()
    init = kernel.block(".init.text", INIT_TEXT_VA, TEXT)
    init.function("setup", "fa 7400 " * 5)
    for index in range(20):
        init.label(f".Lread{index}")
        init.put("0f32 7400")
    init.put("c3", "40" * (PAGE - 20 - len(init.data) - 1))
    kernel.block(".init.data", INIT_TEXT_VA + PAGE, DATA).put(Word("setup"))
    table = kernel.block("__ex_table", RODATA_VA, RODATA)
    for index in range(20):
        table.put(Distance(f".Lread{index}"), Distance("setup"), "01000000")
    kernel.bounds("__start___ex_table", "__stop___ex_table", table)
    done = kernel.rewrite()
    reasons = [s.reason for s in done.done.scan.sites if s.kind == "rdmsr"]
    assert reasons == [Reason.HELD_BY_FIXUP] * 20
    assert done.code("setup", 35).count(bytes.fromhex(CLI)) == 5
    broken = {rule.number for rule in check_static(kernel.image(), done.image).totals}
    assert broken <= {"VP051"}, "the segment of .init.text alone grows, which no kernel has"


def _led_to(row: np.void) -> int:
    """The address for which a relocated word stands; a branch counts from its own end."""
    if row["kind"] == R_386_32:
        return int(row["value"])
    return (int(row["value"]) + int(row["va"]) + 4) & 0xFFFFFFFF


def test_section_right_after_init_code_stays() -> None:
    kernel = SmallKernel()
    init = kernel.block(".init.text", INIT_TEXT_VA, TEXT)
    init.function("setup", "fb fb fb c3")
    data = kernel.block(".init.data", INIT_TEXT_VA + PAGE, RODATA)
    data.label("later")
    word = data.put(Word("setup"), Word("later"))
    done = kernel.rewrite()
    assert done.va("later") == INIT_TEXT_VA + PAGE
    assert done.word(word) == INIT_TEXT_VA
    assert done.word(word + 4) == INIT_TEXT_VA + PAGE


@pytest.mark.parametrize("pages", [1, 2, 4, 8])
def test_alignment_of_later_sections_survives_a_shift(pages: int) -> None:
    """Three pages would do; a section aligned to two moves by two at a time, and so do all."""
    kernel = SmallKernel(room=False)
    kernel.text.function("f", "fa c3")
    kernel.block(".data", DATA_VA, DATA, pages * PAGE).put(Word("f"))
    done = kernel.rewrite()
    assert done.is_shifted
    assert done.image.section_by_name[".data"].va % (pages * PAGE) == 0


@pytest.mark.parametrize("pages", [2, 4, 16])
def test_stack_stays_aligned_to_its_size(pages: int) -> None:
    """Linux up to 4.8 finds the running task at the lower end of its stack; no header tells."""
    kernel = SmallKernel(room=False)
    kernel.text.function("f", "fa c3")
    data = kernel.writable()
    data.label("stack", STT_OBJECT, pages * PAGE)
    data.put(Word("f"))
    done = kernel.rewrite()
    assert done.is_shifted
    assert done.va("stack") % (pages * PAGE) == 0
    assert check_static(kernel.image(), done.image).holds


def test_proof_misses_the_alignment_of_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewriter that does not know of it moves the stack by three pages."""
    monkeypatch.setattr(SymbolTable, "aligned_objects", np.zeros(0, SYMBOL))
    kernel = SmallKernel(room=False)
    kernel.text.function("f", "fa c3")
    data = kernel.writable()
    data.label("stack", STT_OBJECT, 2 * PAGE)
    data.put(Word("f"))
    done = kernel.rewrite()
    assert done.va("stack") % (2 * PAGE) == PAGE
    findings = check_static(kernel.image(), done.image).findings
    assert [(finding.rule.number, finding.va) for finding in findings] == [
        ("VP030", done.va("stack"))
    ]
    assert "stack was aligned to its 8192 bytes" in findings[0].message
