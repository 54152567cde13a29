# SPDX-License-Identifier: MIT
"""Do branches still reach their targets when code between the two grows?"""

from __future__ import annotations

import struct

import pytest

from tests.rewrite.smallkernel import (
    INIT_DATA_VA,
    PAGE,
    TEXT_VA,
    Branch,
    Distance,
    Part,
    RewrittenSmall,
    Short,
    SmallKernel,
)
from tests.support.elfbuilder import RODATA, TEXT
from vmipatch.errors import InputNotUnderstood, UnclassifiedReference
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite
from vmipatch.rewrite.reach import OutOfReach, Stuck
from vmipatch.scan.site import Reason
from vmipatch.verify.static import check_static

TEN_SITES = "fa " * 10
"""They grow by 40 bytes."""
FILLER = "40 " * 90
"""90 + 50 bytes are out of reach of a short branch."""
CONDITIONS = tuple(f"{0x70 + condition:02x}" for condition in range(16))


def over(*branch: Part, between: str = TEN_SITES + FILLER) -> SmallKernel:
    """`f`: a branch over `between` to `.Lend`."""
    kernel = SmallKernel()
    kernel.text.function("f", *branch, between)
    kernel.text.label(".Lend")
    kernel.text.put("c3")
    kernel.text.function("after", "c3")
    return kernel


def end_of(done: RewrittenSmall) -> int:
    """Where the ret after the code that grew is."""
    end = done.done.placement.map.one(done.kernel.va(".Lend"))
    assert done.image.read(end, 1) == b"\xc3"
    return end


@pytest.mark.parametrize("opcode", CONDITIONS)
def test_short_condition_becomes_near(opcode: str) -> None:
    done = over(Short(opcode, ".Lend")).rewrite()
    near = bytes((0x0F, 0x80 | int(opcode, 16) & 15))
    assert done.code("f", 2) == near
    assert done.target(done.va("f") + 2) == end_of(done)


@pytest.mark.parametrize("prefixes", ["2e", "3e", "67", "f2", "f3", "2e3e", "f2672e3e"])
@pytest.mark.parametrize(("opcode", "near"), [("74", "0f84"), ("eb", "e9")])
def test_short_branch_with_prefixes_becomes_near_and_keeps_them(
    prefixes: str, opcode: str, near: str
) -> None:
    kernel = over(Short(prefixes + opcode, ".Lend"))
    done = kernel.rewrite()
    code = bytes.fromhex(prefixes + near)
    assert done.code("f", len(code)) == code
    assert done.target(done.va("f") + len(code)) == end_of(done)
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))


@pytest.mark.parametrize("prefixes", ["2e", "67", "f3", "2e3e"])
@pytest.mark.parametrize("opcode", ["eb", "75", "e2", "e3"])
def test_short_branch_with_prefixes_that_reaches_is_led_on(prefixes: str, opcode: str) -> None:
    kernel = over(Short(prefixes + opcode, ".Lend"), between="fa fa")
    done = kernel.rewrite()
    code = bytes.fromhex(prefixes + opcode)
    assert done.code("f", len(code) + 1) == code + b"\x0a"
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))


@pytest.mark.parametrize("opcode", ["66eb", "6674", "66e2", "2e66eb"])
def test_short_branch_of_16_bits_is_refused_as_what_it_is(opcode: str) -> None:
    with pytest.raises(UnclassifiedReference, match="16 bits"):
        over(Short(opcode, ".Lend"), between="fa fa").rewrite()


def test_branch_of_16_bits_that_nothing_reaches_stays_as_it_is() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", "fa c3 66eb05 c3")
    done = kernel.rewrite()
    assert done.code("f", 10) == bytes.fromhex("3e3e3e3efa c3 66eb05 c3")
    assert check_static(kernel.image(), done.image).holds


def test_short_jump_becomes_near() -> None:
    done = over(Short("eb", ".Lend")).rewrite()
    assert done.code("f", 1) == b"\xe9"
    assert done.target(done.va("f") + 1) == end_of(done)


def test_backward_branch_becomes_near() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", TEN_SITES + FILLER, Short("75", "f"), "c3")
    kernel.text.function("after", "c3")
    done = kernel.rewrite()
    at = done.va("f") + 50 + 90
    assert done.image.read(at, 2) == b"\x0f\x85"
    assert done.target(at + 2) == done.va("f")


@pytest.mark.parametrize("opcode", ["eb", "74", "e2", "e1", "e0", "e3"])
def test_branch_that_reaches_stays_short(opcode: str) -> None:
    done = over(Short(opcode, ".Lend"), between="fa fa").rewrite()
    assert done.code("f", 2) == bytes.fromhex(opcode) + b"\x0a"


def test_widening_one_branch_may_widen_another() -> None:
    """The inner branch grows by 4 bytes, which puts the outer one's target out of reach."""
    kernel = SmallKernel()
    inner = "fa " * 8 + "40 " * 90
    kernel.text.function("f", Short("74", ".Louter"), Short("75", ".Linner"), inner)
    kernel.text.label(".Linner")
    kernel.text.put("40")
    kernel.text.label(".Louter")
    kernel.text.put("c3")
    kernel.text.function("after", "c3")
    done = kernel.rewrite()
    move = done.done.placement.map.one
    assert done.code("f", 2) == b"\x0f\x84"
    assert done.target(done.va("f") + 2) == move(kernel.va(".Louter"))
    assert done.target(done.va("f") + 8) == move(kernel.va(".Linner"))


def left_for_branches(done: RewrittenSmall) -> list[int]:
    """Addresses of the sites that are native for the sake of a branch over them."""
    return [s.va for s in done.done.scan.sites if s.reason is Reason.SHORT_BRANCH]


def proven(kernel: SmallKernel) -> RewrittenSmall:
    """The rewritten kernel, which its proof accepts."""
    done = kernel.rewrite()
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    return done


LOOPS = pytest.mark.parametrize(
    "opcode", ["e2", "e1", "e0", "e3", "67e3"], ids=["loop", "loope", "loopne", "jecxz", "jcxz"]
)


@LOOPS
@pytest.mark.parametrize(("idle_len", "most"), [(90, 6), (104, 3), (117, 0)])
def test_branch_without_a_near_form_keeps_as_few_sites_native_as_it_takes(
    opcode: str, idle_len: int, most: int
) -> None:
    """127 bytes are in reach: each of ten sites of one byte may grow by four."""
    kernel = over(Short(opcode, ".Lend"), between=TEN_SITES + "40 " * idle_len)
    kernel.text.function("other", "fa c3")
    done = proven(kernel)
    length = len(bytes.fromhex(opcode))
    assert done.code("f", length) == bytes.fromhex(opcode)
    (distance,) = struct.unpack("b", done.image.read(done.va("f") + length, 1))
    assert done.va("f") + length + 1 + distance == end_of(done)
    assert len(left_for_branches(done)) == 10 - most
    assert done.code("other", 5) == bytes.fromhex("3e3e3e3efa")


def test_loop_backward_keeps_sites_native_and_the_traps_first() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", "fa 9c 9d 9c 9d", FILLER, "40 " * 24, Short("e2", "f"), "c3")
    kernel.text.function("after", "c3")
    done = proven(kernel)
    assert left_for_branches(done)[0] == kernel.va("f"), "cli is emulated, pushf is silently wrong"
    assert Reason.SHORT_BRANCH.value in done.done.manifest.to_json().decode()


def test_loop_over_a_branch_that_became_near_for_sites_elsewhere() -> None:
    """No site lies under the loop: those go back for whose sake the branch in it became near."""
    kernel = SmallKernel()
    kernel.text.function("f", Short("e2", ".Lafter"), "40 " * 122, Short("74", ".Lend"))
    kernel.text.label(".Lafter")
    kernel.text.put(TEN_SITES + FILLER)
    kernel.text.label(".Lend")
    kernel.text.put("c3")
    kernel.text.function("after", "c3")
    done = proven(kernel)
    assert 0 < len(left_for_branches(done)) <= 10


def test_branch_that_no_site_keeps_from_its_target_is_refused_clearly() -> None:
    stuck = Stuck(TEXT_VA, "loop and jecxz have no near form", 4, ((TEXT_VA, TEXT_VA + 127),))
    with pytest.raises(InputNotUnderstood, match="loop and jecxz have no near form") as caught:
        OutOfReach([stuck]).sites_to_leave([])
    assert caught.value.place == f"{TEXT_VA:#x}"
    assert caught.value.hint


def test_jump_that_an_alternative_replaces_keeps_sites_native() -> None:
    kernel = over(Short("eb", ".Lend"))
    replacement = kernel.block(".altinstr_replacement", INIT_DATA_VA + PAGE, TEXT)
    replacement.label("replacement")
    replacement.put("90")
    table = kernel.block(".altinstructions", INIT_DATA_VA, RODATA)
    table.put(Distance("f"), Distance("replacement"), struct.pack("<HBBB", 0xEB, 2, 0, 0))
    kernel.bounds("__alt_instructions", "__alt_instructions_end", table)
    done = proven(kernel)
    assert done.code("f", 1) == b"\xeb"
    assert len(left_for_branches(done)) == 4


def jump_label_kernel(first: Part, between: str) -> tuple[SmallKernel, int]:
    """`f` begins with a place that a static key switches; the table's entry for it."""
    kernel = over(first, between=between)
    data = kernel.writable()
    data.label("key")
    data.put(bytes(8))
    table = kernel.block("__jump_table", INIT_DATA_VA, RODATA)
    entry = table.put(Distance("f"), Distance(".Lend"), Distance("key"))
    kernel.bounds("__start___jump_table", "__stop___jump_table", table)
    return kernel, entry


def test_short_jump_label_becomes_near_and_its_table_follows() -> None:
    """The kernel reads the length of the place from the code, so it may grow."""
    kernel, entry = jump_label_kernel(Short("eb", ".Lend"), TEN_SITES + FILLER)
    done = kernel.rewrite()
    assert done.code("f", 1) == b"\xe9"
    assert done.target(done.va("f") + 1) == end_of(done)
    assert done.pointee(entry) == done.va("f")
    assert done.pointee(entry + 4) == end_of(done)
    assert done.pointee(entry + 8) == kernel.va("key")


def test_nop_of_a_jump_label_with_a_near_target_stays() -> None:
    kernel, entry = jump_label_kernel("6690", "fa fa")
    done = kernel.rewrite()
    assert done.code("f", 2) == b"\x66\x90"
    assert done.pointee(entry + 4) == end_of(done)


def test_nop_of_a_short_jump_label_still_reaches_its_target() -> None:
    """The kernel will write `jmp rel8` over a two-byte nop: the target has to be in its reach."""
    kernel, entry = jump_label_kernel("6690", TEN_SITES + FILLER)
    done = proven(kernel)
    assert done.code("f", 2) == b"\x66\x90"
    assert -128 <= done.pointee(entry + 4) - done.pointee(entry) - 2 <= 127
    assert len(left_for_branches(done)) == 4


def test_call_over_grown_code_and_back() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", Branch("e8", "g"), TEN_SITES, Branch("0f84", "g"), "c3")
    kernel.text.function("g", TEN_SITES, Branch("e9", "f"), filler=b"\xcc")
    kernel.text.function("after", "c3")
    done = kernel.rewrite()
    assert done.target(done.va("f") + 1) == done.va("g")
    assert done.target(done.va("f") + 5 + 50 + 2) == done.va("g")
    assert done.target(done.va("g") + 50 + 1) == done.va("f")


@pytest.mark.parametrize("opcode", ["eb", "74"])
def test_short_branch_to_the_loader_of_modules_reaches_the_runtime(opcode: str) -> None:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", Branch("e8", "load_module"), "fa c3")
    kernel.text.function("load_module", "31c0", Short(opcode, "module_finalize"), "c3")
    kernel.text.function("module_finalize", "fa c3")
    original = kernel.image()
    output = ElfImage.parse(rewrite(original).data)
    assert check_static(original, output, original_sha256=original.file_sha256).holds
