# SPDX-License-Identifier: MIT
"""Is code led on that jumps from where the kernel is loaded to where it is linked, and back?"""

from __future__ import annotations

import struct

import pytest

from tests.recover.stripped import ship
from tests.rewrite.smallkernel import Branch, Distance, RewrittenSmall, SmallKernel, Word
from tests.support.elfbuilder import PAGE_OFFSET
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.recover import recover
from vmipatch.rewrite import rewrite
from vmipatch.scan.ledger import ByteClass
from vmipatch.scan.scan import scan
from vmipatch.verify.static import check_static
from vmipatch.verify.static.rules import BRANCH_LEADS_ELSEWHERE, RELOCATION_LEADS_ELSEWHERE

WORD = 0xFFFFFFFF
BIASES = {"to where it is linked": PAGE_OFFSET, "to where it is loaded": -PAGE_OFFSET}
each_bias = pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)


def jumping(bias: int, opcode: str = "e9") -> SmallKernel:
    """`entry` jumps to `init` plus `bias`, as the assembler writes it; all of it grows."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa 9c 58", Branch("e8", "entry"), "c3")
    kernel.text.function("entry", "fa", opcode, Distance("init", bias - 4), "c3", align=1)
    kernel.text.function("init", "fb 9c 58 c3", align=1)
    kernel.text.function("after", "c3")
    kernel.writable().put(Word("init", bias & WORD), Word("after"))
    return kernel


def proven(kernel: SmallKernel) -> RewrittenSmall:
    """The rewritten kernel, which its proof accepts."""
    done = kernel.rewrite()
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    return done


@each_bias
@pytest.mark.parametrize("opcode", ["e9", "e8", "0f84"])
def test_jump_a_page_offset_away_is_led_along(bias: int, opcode: str) -> None:
    kernel = jumping(bias, opcode)
    done = proven(kernel)
    assert done.va("init") != kernel.va("init")
    at = done.va("entry") + 5 + len(bytes.fromhex(opcode))
    assert done.target(at) == (done.va("init") + bias) & WORD
    assert done.word(kernel.blocks[-1].va) == (done.va("init") + bias) & WORD


def test_target_a_page_offset_away_is_proven_code() -> None:
    kernel = SmallKernel()
    kernel.text.function("entry", "fa e9", Distance(".Linit", PAGE_OFFSET - 4))
    kernel.text.put("cccc")
    kernel.text.label(".Linit")
    kernel.text.put("fb c3")
    account = scan(kernel.image()).ledger.sections[0]
    found = dict(zip(account.edges.tolist(), account.classes.tolist(), strict=True))
    assert found[kernel.va(".Linit")] == ByteClass.CODE


@each_bias
def test_kernel_alone_may_jump_a_page_offset_away(bias: int) -> None:
    found = recover(*ship(jumping(bias)))
    output = ElfImage.parse(rewrite(found.kernel).data)
    verdict = check_static(found.image, output, found.fixed)
    assert verdict.holds, "\n".join(map(str, verdict.findings))


def test_wrong_jump_and_wrong_word_are_found_by_the_proof() -> None:
    kernel = jumping(PAGE_OFFSET)
    done = proven(kernel)
    for va, rule in (
        (done.va("entry") + 6, BRANCH_LEADS_ELSEWHERE),
        (kernel.blocks[-1].va, RELOCATION_LEADS_ELSEWHERE),
    ):
        data = bytearray(done.image.data)
        struct.pack_into("<I", data, done.image.offset_of(va), (done.word(va) + 1) & WORD)
        verdict = check_static(kernel.image(), ElfImage.parse(bytes(data)))
        assert rule in {finding.rule for finding in verdict.findings}


@pytest.mark.parametrize("bias", [0x10000000, 0x50000000, -0x50000000])
def test_branch_to_nowhere_is_still_refused(bias: int) -> None:
    kernel = jumping(bias)
    with pytest.raises(InputNotUnderstood, match=r"leads out of the kernel|is not an address"):
        kernel.rewrite()
