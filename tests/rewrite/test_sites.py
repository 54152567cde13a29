# SPDX-License-Identifier: MIT
"""What stands at each site of a rewritten kernel, and what is left as it was?"""

from __future__ import annotations

import struct

import pytest

from tests.rewrite.smallkernel import (
    INIT_DATA_VA,
    INIT_TEXT_VA,
    PAGE,
    TEXT_VA,
    Branch,
    Distance,
    RewrittenSmall,
    Short,
    SmallKernel,
    Word,
)
from tests.support.elfbuilder import PAGE_OFFSET, RODATA, TEXT
from vmipatch.choices import Padding
from vmipatch.scan.site import Disposition, Reason, Site
from vmipatch.verify.static import check_static
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import FINAL_TRANSLATION, AnnotationRecord, unpack_records

each_padding = pytest.mark.parametrize("padding", list(Padding))
MOV_SS = "8ed0"
INTERRUPT_WINDOWS = {"sti hlt": "fb f4", "sti sysexit": "fb 0f35", "sti mwait": "fb 0f01c9"}


def with_function(*parts: str, padding: Padding = Padding.PREFIX) -> RewrittenSmall:
    """A kernel with one function `f`, rewritten."""
    kernel = SmallKernel()
    kernel.text.function("f", *parts)
    kernel.text.function("after", "c3", filler=b"\xcc")
    return kernel.rewrite(padding)


def body(done: RewrittenSmall) -> bytes:
    """The new bytes of `f`, by the size of its symbol."""
    return done.code("f", done.image.symbols.by_name["f"].size)


@each_padding
@pytest.mark.parametrize("code", INTERRUPT_WINDOWS.values(), ids=INTERRUPT_WINDOWS)
def test_nothing_comes_between_sti_and_the_instruction_it_protects(
    code: str, padding: Padding
) -> None:
    assert bytes.fromhex(code) in body(with_function("40", code, "41 c3", padding=padding))


@each_padding
def test_sti_alone_hands_its_shadow_to_the_next_instruction(padding: Padding) -> None:
    """`sti; ret`: with a nop in between an interrupt could arrive on the old stack."""
    code = body(with_function("40 fb c3", padding=padding))
    assert code.endswith(b"\xfb\xc3")
    assert len(code) == 7


@each_padding
def test_shadow_holds_when_something_leads_to_the_second_instruction(padding: Padding) -> None:
    """A jump to the hlt forbids to fuse; sti stays as it is, right before it."""
    kernel = SmallKernel()
    kernel.text.function("f", "85c0", Short("74", ".Lhalt"), "fb")
    kernel.text.label(".Lhalt")
    kernel.text.put("f4 c3")
    done = kernel.rewrite(padding)
    code = done.code("f", 4 + 1 + 5 + 1)
    halt = 4 + code[3]
    assert code[4:halt] == b"\xfb"
    assert code[halt : halt + 5] in (bytes.fromhex("3e3e3e3ef4"), bytes.fromhex("f48d742600"))


@each_padding
def test_mov_ss_keeps_its_shadow_and_its_bytes(padding: Padding) -> None:
    """`mov ss; mov esp`: never a call, nothing in between, no byte more."""
    for load in (MOV_SS, "17", "0fb22424"):
        done = with_function("40", load, "89c4 41 c3", padding=padding)
        assert body(done) == bytes.fromhex(f"40 {load} 89c4 41 c3")
        assert [s.reason for s in done.done.scan.sites][-1] is Reason.NEVER_A_CALL


@each_padding
def test_pushf_and_pop_are_one_site(padding: Padding) -> None:
    done = with_function("9c 58 c3", padding=padding)
    filled = {Padding.PREFIX: "3e3e3e 9c58 c3", Padding.NOP: "9c58 8d7600 c3"}
    assert body(done) == bytes.fromhex(filled[padding])
    assert done.done.sites[-1][0].call is VmiCall.GET_INTERRUPT_MASK


@each_padding
def test_memory_operands_and_string_sources_take_no_prefix(padding: Padding) -> None:
    """A segment prefix would change what they read."""
    code = body(with_function("f36e 0f0138 c3", padding=padding))
    assert code == bytes.fromhex("f36e 8d7600  0f0138 89f6  c3")


def test_long_sites_are_annotated_and_keep_their_bytes() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", "0f013d", Word("_text"), "c3")
    done = kernel.rewrite()
    assert done.code("f", 8) == bytes.fromhex("0f013d 000000c1 c3")
    assert done.done.sites[-1][1].pad_len == 0


def test_head_code_before_paging_is_untouched() -> None:
    """Until the write of CR0: no ROM is mapped. After it the same instruction is a site."""
    kernel = SmallKernel()
    kernel.text.function("second_cpu", "fa b800000080 0f22c0 fa c3")
    kernel.rodata().put(Word("second_cpu", physical=True))
    done = kernel.rewrite()
    assert done.va("startup_32") == TEXT_VA
    assert done.code("startup_32", 10) == bytes.fromhex("fa b800000080 0f22c0 c3")[:10]
    assert done.code("second_cpu", 15) == bytes.fromhex("fa b800000080 0f22c0 3e3e3e3efa c3")
    early = [s for s in done.done.scan.sites if s.reason is Reason.BEFORE_PAGING]
    assert [site.kind for site in early] == ["cli", "mov to cr"] * 2


def test_functions_called_only_before_paging_are_untouched() -> None:
    kernel = SmallKernel()
    kernel.text.function("early", "fa c3")
    kernel.text.function("shared", "fa c3")
    kernel.text.function(
        "second_cpu", Branch("e8", "early"), Branch("e8", "shared"), "b800000080 0f22c0 c3"
    )
    kernel.text.function("late", Branch("e8", "shared"), "c3")
    kernel.rodata().put(Word("second_cpu", physical=True))
    done = kernel.rewrite()
    assert done.code("early", 2) == b"\xfa\xc3"
    assert done.code("shared", 6) == bytes.fromhex("3e3e3e3efa c3")
    assert done.target(done.va("second_cpu") + 1) == done.va("early")
    assert done.target(done.va("second_cpu") + 6) == done.va("shared")


def alternatives_kernel() -> SmallKernel:
    """Two originals: rdtsc with nops up to five bytes, and a bare cli; one replacement each."""
    kernel = SmallKernel()
    kernel.text.function("f", "fa")
    kernel.text.label(".Loriginal")
    kernel.text.put("0f31 909090")
    kernel.text.label(".Lshort")
    kernel.text.put("fa fa c3")
    replacement = kernel.block(".altinstr_replacement", INIT_DATA_VA + PAGE, TEXT)
    replacement.label(".Lreplacement")
    replacement.put("0faee8 0f31")
    replacement.label(".Lother")
    replacement.put("fb")
    table = kernel.block(".altinstructions", INIT_DATA_VA, RODATA)
    table.put(Distance(".Loriginal"), Distance(".Lreplacement"), struct.pack("<HBB", 1, 5, 5))
    table.put(Distance(".Lshort"), Distance(".Lother"), struct.pack("<HBB", 2, 1, 1))
    kernel.bounds("__alt_instructions", "__alt_instructions_end", table)
    return kernel


@each_padding
def test_originals_of_alternatives_keep_bytes_and_length(padding: Padding) -> None:
    done = alternatives_kernel().rewrite(padding)
    cli = bytes.fromhex({Padding.PREFIX: "3e3e3e3efa", Padding.NOP: "fa8d742600"}[padding])
    code = done.code("f", 17)
    assert code == cli + bytes.fromhex("0f31 909090  fa") + cli + b"\xc3"
    table = done.image.section_by_name[".altinstructions"].va
    assert done.pointee(table) == done.va("f") + 5
    assert done.pointee(table + 12) == done.va("f") + 10
    replacement = done.image.section_by_name[".altinstr_replacement"]
    assert done.image.section_bytes(replacement) == bytes.fromhex("0faee8 0f31 fb")


def test_only_an_original_with_room_for_a_call_is_annotated() -> None:
    done = alternatives_kernel().rewrite()
    by_reason = {site.reason: site for site in done.done.scan.sites}
    original = by_reason[Reason.CALL_IN_ALTERNATIVE]
    assert original.code == bytes.fromhex("0f31 909090")
    assert by_reason[Reason.ALTERNATIVE].code == b"\xfa"
    assert by_reason[Reason.ALTERNATIVE].disposition is Disposition.NATIVE_TRAPPING
    assert by_reason[Reason.REPLACEMENT].disposition is Disposition.NATIVE_TRAPPING


def test_relocate_kernel_is_copied_elsewhere_and_keeps_its_bytes() -> None:
    """With all that the kernel copies along: its parts have symbols of their own."""
    kernel = SmallKernel()
    kernel.text.function("relocate_kernel", "9c fa 0f20c0 58 9d c3")
    kernel.text.function("identity_mapped", "0f22d8 c3", align=1)
    kernel.text.function("virtual_mapped", "0f22c0 c3", align=1)
    kernel.text.function("swap_pages", "0f20e0 c3", align=1)
    kernel.text.function("f", "fa c3")
    done = kernel.rewrite()
    assert done.code("relocate_kernel", 20) == bytes.fromhex(
        "9c fa 0f20c0 58 9d c3 0f22d8 c3 0f22c0 c3 0f20e0 c3"
    )
    copied = [s for s in done.done.scan.sites if s.reason is Reason.COPIED]
    assert [s.disposition for s in copied] == [
        Disposition.NATIVE_UNPRIVILEGED,
        Disposition.NATIVE_TRAPPING,
        Disposition.NATIVE_TRAPPING,
        Disposition.NATIVE_UNPRIVILEGED,
        *[Disposition.NATIVE_TRAPPING] * 3,
    ]


LEFT_FOR_THEIR_FAULTS = {
    "lgdt": "0f0115000000c1",
    "lidt": "0f011d000000c1",
    "lldt": "0f00d0",
    "lldt from memory": "0f0010",
    "ltr": "0f00d9",
    "sgdt": "0f0100",
    "sidt": "0f010c24",
    "sldt to memory": "0f0000",
    "str to memory": "0f0008",
    "smsw to memory": "0f0120",
    "mov m, cs": "8c08",
    "mov m, ss": "668c10",
    "insb": "6c",
    "outsd": "6f",
}
LEFT_FOR_THEIR_OPERANDS = {
    "mov cr3, esp": "0f22dc",
    "mov esp, cr0": "0f20c4",
    "mov dr7, esp": "0f23fc",
    "mov esp, dr6": "0f21f4",
    "mov cr3, eax, as memory": "0f2218",
    "sldt esp": "0f00c4",
    "str sp": "660f00cc",
    "smsw esp": "0f01e4",
    "mov esp, cs": "8ccc",
    "mov sp, ss": "668cd4",
    "pushf; pop esp": "9c5c",
    "data16 lgdt": "660f0115000000c1",
    "addr16 rep ins": "67f36d",
    "rep outs gs": "f3656e",
    "rep outs es": "26f36f",
    "addr16 invlpg": "670f0138",
    "invlpg fs": "640f0138",
    "data16 pushf": "669c",
}
STILL_CALLS = {
    "rep insd": "f36d",
    "repne insd": "f26d",
    "rep insw": "66f36d",
    "rep insw, the other way": "f3666d",
    "rep outsb ds": "3ef36e",
    "rep insb, with a segment that it ignores": "65f36c",
    "addr16 in": "67ec",
    "data16 in al": "66ec",
    "data16 cli": "66fa",
    "invlpg": "0f0138",
    "invlpg of the stack": "0f013c24",
    "sldt ecx": "0f00c1",
    "str cx": "660f00c9",
}


def site_of(done: RewrittenSmall) -> Site:
    """The site after the first byte of `f`."""
    va = done.kernel.va("f") + 1
    return next(site for site in done.done.scan.sites if site.va == va)


@pytest.mark.parametrize(
    "code",
    [*LEFT_FOR_THEIR_FAULTS.values(), *LEFT_FOR_THEIR_OPERANDS.values()],
    ids=[*LEFT_FOR_THEIR_FAULTS, *LEFT_FOR_THEIR_OPERANDS],
)
def test_what_no_call_can_do_stays_native(code: str) -> None:
    done = with_function("40", code, "c3")
    site = site_of(done)
    assert site.reason is Reason.NO_TRANSLATION
    assert bytes.fromhex(code) in body(done)
    assert check_static(done.kernel.image(), done.image).holds


@pytest.mark.parametrize("code", STILL_CALLS.values(), ids=STILL_CALLS)
def test_prefixes_without_a_meaning_are_no_hindrance(code: str) -> None:
    done = with_function("40", code, "c3")
    site = site_of(done)
    assert site.reason is Reason.CALL
    assert check_static(done.kernel.image(), done.image).holds


def records(done: RewrittenSmall, section: str) -> list[AnnotationRecord]:
    return list(unpack_records(done.image.section_bytes(done.image.section_by_name[section])))


@each_padding
def test_every_widened_site_has_a_record_that_fits_its_bytes(padding: Padding) -> None:
    kernel = SmallKernel()
    kernel.text.function("f", "fa 0f22d8 9c 58 fb f4 66ed 0f0138 c3")
    init = kernel.block(".init.text", INIT_TEXT_VA, TEXT)
    init.function("setup", "fb c3")
    init.label("behind_setup")
    kernel.block(".init.data", INIT_DATA_VA, RODATA).put(Word("setup"))
    done = kernel.rewrite(padding)
    found = sorted(records(done, ".vmi.annotation"), key=lambda record: record.native_va)
    assert [record.call for record in found] == [
        VmiCall.DISABLE_INTERRUPTS,
        VmiCall.SET_CR3,
        VmiCall.GET_INTERRUPT_MASK,
        VmiCall.HALT,
        VmiCall.INW,
        VmiCall.INVAL_PAGE,
    ]
    originals = [site.code for site, _ in done.done.sites]
    for record, original in zip(found, originals, strict=False):
        stored = done.image.read(record.native_va, record.native_len)
        assert record.native_len == 5
        assert record.pad_len == 5 - len(original)
        assert original in (stored[: len(original)], stored[record.pad_len :])
        assert_translation_is_a_call(done, record)
    (init_record,) = records(done, ".vmi.annotation.init")
    assert init_record.native_va == done.va("setup")


def assert_translation_is_a_call(done: RewrittenSmall, record: AnnotationRecord) -> None:
    """Either a call that is yet to be aimed at the ROM, or one of a thunk in the added code."""
    call = done.image.read(record.translation_va, record.translation_len)
    assert (len(call), call[:1]) == (5, b"\xe8")
    if record.call_off == 0:
        assert call[1:] == bytes(4)
        return
    assert record.call_off == FINAL_TRANSLATION
    thunk = record.translation_va + 5 + int.from_bytes(call[1:], "little", signed=True)
    assert thunk in done.image.section_by_name[".vmi.text"]


def test_annotations_lie_after_everything_that_the_kernel_reserves() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", "fa c3")
    data = kernel.writable()
    data.put(Word("f"))
    data.label("_end")
    done = kernel.rewrite()
    section = done.image.section_by_name[".vmi.annotation"]
    assert section.va % PAGE == 0
    assert done.va("_end") <= section.va
    segment = list(done.image.loads)[-1]
    assert (segment.va, segment.va - segment.pa) == (section.va, PAGE_OFFSET)
    assert done.va("__vmi_annotation") == section.va
    assert done.va("__vmi_annotation_end") == section.end_va
