# SPDX-License-Identifier: MIT
"""Is an honest output of a kernel with something odd in it proven, to the last byte?"""

from __future__ import annotations

import struct

import pytest

from tests.rewrite.smallkernel import SmallKernel, Word
from tests.support.elfbuilder import DATA, RODATA, TEXT
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_FUNC, STT_NOTYPE
from vmipatch.image.types import SectionFlag
from vmipatch.rewrite import rewrite
from vmipatch.verify.static import check_static

K7_NOPS = ("8d0420", "8d442000", "8d040500000000", "908d040500000000")
"""The nops of an Athlon of three and more bytes (include/asm-i386/processor.h of Linux 2.6.16)."""
ALTERNATIVES_VA, REPLACEMENT_VA = 0xC1018000, 0xC1019000


def proven(image: ElfImage) -> None:
    """The kernel is rewritten, and the proof accepts it."""
    output = ElfImage.parse(rewrite(image).data, "output")
    verdict = check_static(image, output, original_sha256=image.file_sha256)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    assert verdict.counts["records"] > 0
    assert verdict.file is not None and verdict.file.unexplained == 0


@pytest.mark.parametrize("nop", K7_NOPS)
def test_nops_of_an_athlon_are_nops(nop: str) -> None:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa", nop, "fb 31c0", nop, "c3")
    kernel.text.function("next", "fa", nop, "c3")
    kernel.rodata().put(Word("next"))
    proven(kernel.image())


def test_nop_of_an_athlon_in_the_place_of_an_alternative() -> None:
    """CONFIG_MK7 from 3.7 on: three bytes where a clac goes."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa 8d0420 fb c3")
    place_va = kernel.va("start_kernel") + 1
    builder = kernel.builder()
    entry = struct.pack(
        "<iiHBB", place_va - ALTERNATIVES_VA, REPLACEMENT_VA - ALTERNATIVES_VA - 4, 0x134, 3, 3
    )
    table = builder.section(".altinstructions", ALTERNATIVES_VA, entry, RODATA)
    builder.bounds("__alt_instructions", "__alt_instructions_end", table)
    builder.section(".altinstr_replacement", REPLACEMENT_VA, bytes.fromhex("0f01ca"), TEXT, align=1)
    proven(builder.image())


@pytest.mark.parametrize("flags", (RODATA, DATA, TEXT))
@pytest.mark.parametrize("distance", (0, 4, 0x1000, 0x200000))
def test_empty_section_after_the_image_is_no_finding(distance: int, flags: SectionFlag) -> None:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa fb c3")
    kernel.writable().put(b"data")
    builder = kernel.builder()
    end_va = max(block.end_va for block in kernel.blocks)
    builder.section(".nothing", end_va + distance, b"", flags)
    proven(builder.image())


@pytest.mark.parametrize("kind", (STT_NOTYPE, STT_FUNC))
@pytest.mark.parametrize(
    "filler",
    ("90" * 7, "8db42600000000", "89f6 90", "90 8d742600", "cc" * 7, "cc 90909090"),
)
def test_label_in_front_of_filler_keeps_its_first_instruction(filler: str, kind: int) -> None:
    """Assembly ends a routine with a label, and the next one is aligned."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa fb c3")
    kernel.text.label("end_of_start_kernel", kind)
    kernel.text.put(filler)
    kernel.text.function("next", "fa c3", align=1)
    kernel.rodata().put(Word("next"))
    proven(kernel.image())
