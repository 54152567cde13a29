# SPDX-License-Identifier: MIT
"""Are bytes that are no instructions, and traps that are, what they were after the rewrite?"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.recover.stripped import ship
from tests.rewrite.smallkernel import DATA_VA, Branch, RewrittenSmall, SmallKernel, Word
from tests.support.elfbuilder import DATA, RODATA
from tests.support.smallmodule import SmallModule
from tests.support.smallmodule import Word as ModuleWord
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.recover import recover
from vmipatch.rewrite import rewrite
from vmipatch.rewrite.module import rewrite_module
from vmipatch.scan.ledger import ByteClass
from vmipatch.scan.scan import scan
from vmipatch.verify.static import check_static
from vmipatch.verify.static.module import check_module
from vmipatch.verify.static.rules import INSTRUCTION_CHANGED

LLD = (b"\0\0\xcc\xcc" * 8, b"\0\0\x90\x90" * 8, bytes(32))
"""Fillers that lld makes of =0xcccc and of =0x9090; and zeros."""
FIVE_LEN = 5
"""Bytes of a function `9c 58 fb fa c3`, to which a gap is to follow."""


def with_gap(gap: bytes) -> SmallKernel:
    """Two functions with sites, `gap` between them, and after a call that does not return."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa", Branch("e8", "f"), "9c 58", Branch("e8", "panic"))
    kernel.text.put(gap)
    kernel.text.function("f", "9c 58 fb fa c3", align=1)
    kernel.text.put(gap)
    kernel.text.function("panic", "fa ebfd", align=1)
    kernel.text.function("after", "c3")
    kernel.writable().put(Word("f"), Word("panic"))
    return kernel


def proven(kernel: SmallKernel) -> RewrittenSmall:
    """The rewritten kernel, which its proof accepts."""
    done = kernel.rewrite()
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    return done


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("fill", LLD, ids=["cccc", "9090", "zeros"])
def test_gap_that_a_linker_filled_moves_with_the_function_before_it(
    fill: bytes, length: int
) -> None:
    done = proven(with_gap(fill[:length]))
    for after in ("f", "panic"):
        assert done.image.read(done.va(after) - length, length) == fill[:length]
    account = scan(done.kernel.image()).ledger.sections[0]
    assert account.length(ByteClass.UNKNOWN) == 0
    gap_va = done.kernel.va("f") + FIVE_LEN
    assert account.class_at(np.array([gap_va]))[0] == ByteClass.PADDING


@pytest.mark.parametrize("length", (1, 2, 3, 5))
def test_kernel_alone_may_have_filled_gaps(length: int) -> None:
    found = recover(*ship(with_gap(LLD[0][:length])))
    output = ElfImage.parse(rewrite(found.kernel).data)
    verdict = check_static(found.image, output, found.fixed)
    assert verdict.holds, "\n".join(map(str, verdict.findings))


def test_changed_gap_is_found_by_the_proof() -> None:
    kernel = with_gap(LLD[0][:3])
    done = proven(kernel)
    data = bytearray(done.image.data)
    data[done.image.offset_of(done.va("panic") - 3)] = 0x40
    verdict = check_static(kernel.image(), ElfImage.parse(bytes(data)))
    assert INSTRUCTION_CHANGED in {finding.rule for finding in verdict.findings}


def test_zeros_that_control_runs_into_are_still_refused() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", "fa 00")
    kernel.text.function("g", "c3", align=1)
    with pytest.raises(InputNotUnderstood, match="not an instruction"):
        kernel.rewrite()


def warning(trap: str) -> SmallKernel:
    """`f` goes on after a trap that __bug_table names, between sites."""
    kernel = SmallKernel()
    kernel.text.function("f", "fa 85c0")
    kernel.text.put("74", bytes((len(bytes.fromhex(trap)),)))
    kernel.text.label(".Lwarn")
    kernel.text.put(trap, "9c 58 fb c3")
    va, kind, _ = kernel.labels["f"]
    kernel.labels["f"] = va, kind, kernel.text.end_va - va
    kernel.text.function("after", "c3")
    kernel.rodata().put(b"a.c\0")
    kernel.labels["file"] = (kernel.blocks[-1].va, 0, 0)
    bugs = kernel.block("__bug_table", DATA_VA, DATA)
    bugs.put(Word(".Lwarn"), Word("file"), struct.pack("<HH", 12, 1))
    kernel.bounds("__start___bug_table", "__stop___bug_table", bugs)
    return kernel


@pytest.mark.parametrize("trap", ["0f0b", "0fff", "0fb9c0", "0fb94510"])
def test_warning_is_an_instruction_and_control_goes_on(trap: str) -> None:
    kernel = warning(trap)
    done = proven(kernel)
    octets = bytes.fromhex(trap)
    bug_va = done.word(done.va("__start___bug_table"))
    assert done.image.read(bug_va, len(octets)) == octets
    kinds = [site.kind for site in done.done.scan.sites if site.va >= kernel.va("f")]
    assert kinds == ["cli", "pushf", "sti"]


@pytest.mark.parametrize("trap", ["670fb94010", "0fb94010", "0fb9c0"])
def test_trap_of_a_sanitizer_is_an_instruction(trap: str) -> None:
    kernel = SmallKernel()
    kernel.text.function("f", "fa 9c 58", trap)
    kernel.text.function("after", "fb c3", align=1)
    done = proven(kernel)
    assert done.image.read(done.va("after") - len(bytes.fromhex(trap)), 2)


def test_ud0_that_no_table_names_is_no_instruction() -> None:
    kernel = warning("0fff")
    kernel.text.function("g", "0fff c0 c3")
    with pytest.raises(InputNotUnderstood, match="not an instruction") as caught:
        kernel.rewrite()
    assert f"{kernel.va('g'):#x}" in (caught.value.place or "")


def test_module_may_warn_by_a_ud0_of_two_bytes() -> None:
    module = SmallModule()
    module.section(".text").function("f", "fa 0fff", "9c 58 fb c3")
    module.section(".rodata.str", RODATA).put(b"a.c\0")
    bugs = module.section("__bug_table", DATA)
    bugs.put(ModuleWord("f", 1), ModuleWord(".rodata.str"), struct.pack("<HH", 12, 1))
    data = module.build()
    done = rewrite_module(data, "small")
    assert [site.kind for site, _ in done.sites] == ["cli", "pushf", "sti"]
    verdict = check_module(data, done.data)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
