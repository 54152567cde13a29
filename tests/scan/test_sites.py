# SPDX-License-Identifier: MIT
"""Are sensitive instructions grouped where they must stay together, and judged where they stand?"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.rewrite.smallkernel import INIT_TEXT_VA, Branch, Part, Short, SmallKernel, Word
from tests.support.elfbuilder import TEXT
from vmipatch.errors import InputNotUnderstood
from vmipatch.scan import ScanResult, Site, scan
from vmipatch.scan.ledger import ByteClass
from vmipatch.scan.scan import native_disposition
from vmipatch.scan.site import Disposition, Fusion, Reason
from vmipatch.scan.zones import Zone, Zones
from vmipatch.vmi.calls import VmiCall


def scan_of(*parts: Part) -> ScanResult:
    """The scan of a kernel with one function `f`."""
    kernel = SmallKernel()
    kernel.text.function("f", *parts)
    return scan(kernel.image())


def sites_of(*parts: Part) -> list[Site]:
    """The sites of one function after the head code's two."""
    return list(scan_of(*parts).sites[2:])


@pytest.mark.parametrize(
    ("code", "kind", "call"),
    [
        ("fb f4", "sti+hlt", VmiCall.HALT),
        ("fb 0f35", "sti+sysexit", VmiCall.SYSEXIT),
        ("fb 0f01c9", "sti+mwait", None),
    ],
)
def test_sti_is_fused_with_what_its_shadow_protects(
    code: str, kind: str, call: VmiCall | None
) -> None:
    (site,) = sites_of("40", code, "c3")
    assert (site.kind, site.fusion, site.call) == (kind, Fusion.SHADOW, call)
    assert site.code == bytes.fromhex(code)


@pytest.mark.parametrize("register", range(8))
def test_pushf_is_fused_with_the_pop_of_a_register(register: int) -> None:
    (site,) = sites_of("9c", bytes((0x58 + register,)), "c3")
    assert (site.kind, site.fusion) == ("pushf", Fusion.READ_FLAGS)
    assert site.call is VmiCall.GET_INTERRUPT_MASK


@pytest.mark.parametrize(
    "code",
    ["fb 90 f4", "fb fa", "9c 9d", "9c 8f00", "fb c3", "9c 40"],
    ids=["sti nop hlt", "sti cli", "pushf popf", "pushf pop memory", "sti ret", "pushf inc"],
)
def test_others_are_not_fused(code: str) -> None:
    assert {site.fusion for site in sites_of(code, "c3")} == {Fusion.NONE}


def test_line_and_file_of_an_old_bug_are_no_instructions() -> None:
    """Line 0xfa would be a cli, line 0x0f would swallow what follows."""
    kernel = SmallKernel()
    kernel.text.function("f", "0f0b fa00", Word("file"), "fa 0f0b 0f00", Word("file"), "9c c3")
    kernel.rodata().label("file")
    kernel.rodata().put(b"mm/slab.c\0")
    result = scan(kernel.image())
    assert [(site.kind, site.va - kernel.va("f")) for site in result.sites[2:]] == [
        ("cli", 8),
        ("pushf", 17),
    ]
    text = next(account for account in result.ledger.sections if account.name == ".text")
    records = kernel.va("f") + np.array([*range(2, 8), *range(11, 17)])
    assert set(text.class_at(records).tolist()) <= {ByteClass.DATA, ByteClass.UNKNOWN}
    with pytest.raises(InputNotUnderstood, match="not an instruction"):
        kernel.rewrite()


def test_nothing_is_fused_over_a_target() -> None:
    """A jump to the hlt runs it without the sti."""
    kernel = SmallKernel()
    kernel.text.function("f", "85c0", Short("74", ".Lhalt"), "fb")
    kernel.text.label(".Lhalt")
    kernel.text.put("f4 9c")
    kernel.text.label(".Lpop")
    kernel.text.put("58 c3")
    kernel.rodata().put(Word(".Lpop"))
    found = scan(kernel.image()).sites[2:]
    assert [(site.kind, site.fusion) for site in found] == [
        ("sti", Fusion.NONE),
        ("hlt", Fusion.NONE),
        ("pushf", Fusion.NONE),
    ]


def test_census_counts_each_instruction_of_a_group() -> None:
    result = scan_of("fb f4 fb 9c 58 9c 9d c3")
    text = result.image.section_by_name[".text"].index
    expected = Counter({"sti": 2, "hlt": 1, "pushf": 2, "popf": 1, "cli": 1, "mov to cr": 1})
    assert result.ledger.census() == result.ledger.census(text) == expected
    assert result.ledger.census(99) == Counter()


def test_every_byte_of_code_is_in_one_account() -> None:
    result = scan_of("fa 0f0a c3")  # 0f 0a is not an instruction
    (account,) = result.ledger.sections
    assert sum(account.length(kind) for kind in ByteClass) == account.end_va - account.start_va
    assert account.length(ByteClass.UNKNOWN) >= 1
    assert account.length(ByteClass.PADDING) >= 0x4000


@pytest.mark.parametrize(
    ("code", "disposition", "reason"),
    [
        ("fa", Disposition.REWRITTEN, Reason.CALL),
        ("9c", Disposition.REWRITTEN, Reason.CALL),
        ("0f08", Disposition.NATIVE_TRAPPING, Reason.NO_CALL),
        ("0f01dc", Disposition.NATIVE_TRAPPING, Reason.NO_CALL),
        ("8ed0", Disposition.NATIVE_TRAPPING, Reason.NEVER_A_CALL),
        ("8ed8", Disposition.HARMLESS, Reason.SAME_AT_CPL1),
        ("ff18", Disposition.HARMLESS, Reason.SAME_AT_CPL1),
        ("0f02c1", Disposition.HARMLESS, Reason.BY_DESCRIPTOR),
        ("0f00e9", Disposition.HARMLESS, Reason.BY_DESCRIPTOR),
        ("0f01fd", Disposition.NATIVE_TRAPPING, Reason.NO_CALL),
        ("660faef1", Disposition.NATIVE_TRAPPING, Reason.NO_CALL),
        ("f30f3af0c008", Disposition.NATIVE_TRAPPING, Reason.NO_CALL),
        ("f30f09", Disposition.NATIVE_TRAPPING, Reason.NO_CALL),
        ("0f38f608", Disposition.HARMLESS, Reason.SAME_AT_CPL1),
        ("fb 0f01c9", Disposition.NATIVE_TRAPPING, Reason.NO_CALL),
    ],
)
def test_site_has_its_disposition_and_reason(
    code: str, disposition: Disposition, reason: Reason
) -> None:
    (site,) = sites_of("40", code, "c3")
    assert (site.disposition, site.reason) == (disposition, reason)


def test_site_in_a_section_of_another_name_stays_native() -> None:
    kernel = SmallKernel()
    kernel.block(".exit.text", INIT_TEXT_VA, TEXT).function("leave", "fa 9c c3")
    found = [s for s in scan(kernel.image()).sites if s.reason is Reason.OTHER_SECTION]
    assert [site.disposition for site in found] == [
        Disposition.NATIVE_TRAPPING,
        Disposition.NATIVE_UNPRIVILEGED,
    ]


def test_one_silent_instruction_spoils_a_group() -> None:
    (trapping,) = sites_of("40 fb f4 c3")
    (silent,) = sites_of("40 9c 58 c3")
    assert native_disposition(trapping) is Disposition.NATIVE_TRAPPING
    assert native_disposition(silent) is Disposition.NATIVE_UNPRIVILEGED


def test_code_is_followed_until_paging_is_on() -> None:
    """Over conditions and jumps, up to a write with the PG bit; a second write is late."""
    kernel = SmallKernel()
    kernel.text.function("cpu", "85c0", Short("74", ".Lon"), "fa", Branch("e9", ".Lon"))
    kernel.text.function("between", "fa c3")
    kernel.text.align(16)
    kernel.text.label(".Lon")
    kernel.text.put("0f20c0 0d00000080 0f22c0 0f22c0 c3")
    kernel.rodata().put(Word("cpu", physical=True))
    found = [s for s in scan(kernel.image()).sites if s.va >= kernel.va("cpu")]
    assert [(site.kind, site.reason is Reason.BEFORE_PAGING) for site in found] == [
        ("cli", True),
        ("cli", False),
        ("mov from cr", True),
        ("mov to cr", True),
        ("mov to cr", False),
    ]


def test_write_of_cr0_without_the_paging_bit_does_not_end_the_early_code() -> None:
    kernel = SmallKernel()
    kernel.text.function("cpu", "b801000000 0f22c0 fa b800000080 0f22c0 fb c3")
    kernel.rodata().put(Word("cpu", physical=True))
    found = [s for s in scan(kernel.image()).sites if s.va >= kernel.va("cpu")]
    early = [site.kind for site in found if site.reason is Reason.BEFORE_PAGING]
    assert early == ["mov to cr", "cli", "mov to cr"]


def early_sites(kernel: SmallKernel) -> list[int]:
    sites = scan(kernel.image()).sites
    return [s.va for s in sites if s.reason is Reason.BEFORE_PAGING and s.va >= kernel.va("begin")]


TO_PAGING = "b800000080 0f22c0"
"""mov eax, 0x80000000; mov cr0, eax"""


def test_word_that_happens_to_be_a_physical_address_is_not_an_entry() -> None:
    """Control from there does not switch paging on: it returns, loops, halts or leaves."""
    kernel = SmallKernel()
    kernel.text.function("begin", "90")
    data = kernel.rodata()
    for name, code in (
        ("returns", "0e 16 9c 9d c3"),
        ("loops", "16 58 ebfc"),
        ("leaves", "16 58 ffe0"),
        ("pages_off", "16 58 b801000000 0f22c0 c3"),
    ):
        kernel.text.function(name, code)
        data.put(Word(name, physical=True), Word(name, 1, physical=True))
    assert early_sites(kernel) == []


def test_false_entry_does_not_hide_a_true_one() -> None:
    """Not even one in the middle of it, or one from which control runs past it."""
    kernel = SmallKernel()
    kernel.text.function("begin", "16 58 c3")
    kernel.text.function("cpu", "fa", TO_PAGING, "fb c3")
    kernel.text.function("other", "16 58", Short("74", "to_cpu"), "c3")
    kernel.text.label("to_cpu")
    kernel.text.put(Branch("e9", "cpu"))
    kernel.rodata().put(*(Word(name, physical=True) for name in ("begin", "cpu", "other")))
    va = kernel.va("cpu")
    assert early_sites(kernel) == [va, va + 6, kernel.va("other")]


def test_entry_that_jumps_far_to_the_head_code_is_followed() -> None:
    """As pvh_start_xen does: paging off, then startup_32 by its physical address."""
    kernel = SmallKernel()
    kernel.text.function("begin", "90")
    kernel.text.function("cpu", "fa", TO_PAGING, "c3")
    kernel.text.function("pvh", "0f20c0 fb ea", Word("cpu", physical=True), "1000 c3")
    kernel.rodata().put(Word("pvh", physical=True))
    va = kernel.va("pvh")
    assert early_sites(kernel)[-2:] == [va, va + 3]


def test_code_that_runs_into_the_head_code_is_early_if_its_address_is_held() -> None:
    """The kernel computes the physical address of startup_32_smp from the linked one."""
    kernel = SmallKernel()
    kernel.text.function("begin", "90")
    kernel.text.function("cpu", "90", Short("eb", "default_entry"))
    kernel.text.function("startup_32_smp", "8ed0 0f22e0")
    kernel.text.label("default_entry")
    kernel.text.put(TO_PAGING, "c3")
    kernel.text.function("unheld", "fa", Branch("e9", "default_entry"))
    kernel.rodata().put(Word("cpu", physical=True), Word("startup_32_smp"))
    va = kernel.va("startup_32_smp")
    assert early_sites(kernel) == [va, va + 2, kernel.va("default_entry") + 5]


def test_function_that_ends_with_a_call_does_not_run_into_the_head_code() -> None:
    """As init_real_mode of 7.2, which panics right before startup_32, or a second processor's."""
    kernel = SmallKernel()
    kernel.text.function("begin", "90 c3")
    kernel.text.function("panic", "fa ebfe")
    kernel.text.function("init_real_mode", "fa", Branch("e8", "panic"))
    kernel.text.function("cpu", "fb", Short("eb", "default_entry"), align=1)
    kernel.text.function("other", "fa", Branch("e8", "panic"))
    kernel.text.function("startup_32_smp", "8ed0", align=1)
    kernel.text.label("default_entry")
    kernel.text.put(TO_PAGING, "c3")
    held = (Word(name) for name in ("init_real_mode", "other", "startup_32_smp"))
    kernel.rodata().put(Word("cpu", physical=True), *held)
    early = [kernel.va("cpu"), kernel.va("startup_32_smp"), kernel.va("default_entry") + 5]
    assert early_sites(kernel) == early


def test_false_entry_does_not_run_into_the_head_code_after_a_call() -> None:
    kernel = SmallKernel()
    kernel.text.function("begin", "90 c3")
    kernel.text.function("panic", "ebfe")
    kernel.text.function("init_real_mode", "fa", Branch("e8", "panic"))
    kernel.text.function("boots", "fb", TO_PAGING, "c3", align=1)
    kernel.rodata().put(Word("init_real_mode", physical=True))
    kernel.entry = "boots"
    va = kernel.va("boots")
    assert early_sites(kernel) == [va, va + 6]


@pytest.mark.parametrize(
    "setting", ["0d00000080 0f22c0", "81c900000080 0f22c1", "b933000580 0f22c1"]
)
def test_every_way_to_set_the_paging_bit_ends_the_early_code(setting: str) -> None:
    kernel = SmallKernel()
    kernel.text.function("begin", "fa", setting, "fb c3")
    kernel.rodata().put(Word("begin", physical=True))
    va = kernel.va("begin")
    assert early_sites(kernel) == [va, va + 1 + len(bytes.fromhex(setting)) - 3]


def test_zone_is_found_by_any_overlap() -> None:
    outer, inner = Zone(100, 200, Reason.COPIED), Zone(150, 160, Reason.PATCHED)
    zones = Zones([inner, outer, Zone(300, 301, Reason.FIRMWARE)])
    assert zones.over(90, 100) is None
    assert zones.over(90, 101) is outer
    assert zones.over(155, 156) is inner
    assert zones.over(170, 171) is outer
    assert zones.over(200, 300) is None
    assert zones.over(0, 1000) is not None


def test_call_into_an_instruction_does_not_keep_the_walk_before_paging_going() -> None:
    """As a damaged file may hold one: nothing is reached by it, however often it is followed."""
    kernel = SmallKernel()
    # call into the immediate of the next instruction; mov eax, 0x80000000; mov cr0, eax; ret
    kernel.text.function("boots", "fa e8 01000000 b800000080 0f22c0 c3")
    kernel.entry = "boots"
    zones = {site.va: site.reason for site in scan(kernel.image()).sites}
    assert zones[kernel.va("boots")] is Reason.BEFORE_PAGING
