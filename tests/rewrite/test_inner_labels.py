# SPDX-License-Identifier: MIT
"""Do labels on the operand of an instruction move with it? Xen's patch templates have some."""

from __future__ import annotations

import struct

import pytest

from tests.recover.stripped import ship
from tests.rewrite.smallkernel import Branch, Part, SmallKernel, Word
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_FUNC, STT_NOTYPE
from vmipatch.recover import recover
from vmipatch.rewrite import rewrite
from vmipatch.scan.scan import scan
from vmipatch.scan.site import Disposition, Reason
from vmipatch.verify.static import check_static
from vmipatch.verify.static.rules import INSIDE_BODY, SYMBOL_VALUE


def template(branch: Part, opcode_len: int, kind: int = STT_NOTYPE) -> SmallKernel:
    """`f` grows; `irq_enable` is a template with a label on the displacement of a branch."""
    kernel = SmallKernel()
    kernel.text.function("f", "fa fb 9c 58 c3")
    kernel.text.function("irq_enable", "7400 9090", align=1)
    start_va = kernel.text.put(branch)
    kernel.labels["irq_enable_reloc"] = start_va + opcode_len, kind, 0
    kernel.text.label("irq_enable_end", kind)
    kernel.text.put("c3")
    kernel.text.function("check_events", "50 fa 58 c3", align=1)
    kernel.text.function("after", "c3")
    kernel.writable().put(Word("irq_enable"), Word("irq_enable_end"), Word("irq_enable_reloc"))
    return kernel


def unrelocated(opcode: str) -> bytes:
    """A branch to `check_events`, as the assembler resolves it within a section."""
    return bytes.fromhex(opcode) + struct.pack("<i", len(b"\xc3"))


BRANCHES: dict[str, tuple[Part, int]] = {
    "call": (Branch("e8", "check_events"), 1),
    "jmp": (Branch("e9", "check_events"), 1),
    "jz": (Branch("0f84", "check_events"), 2),
    "call of the section": (unrelocated("e8"), 1),
    "jz of the section": (unrelocated("0f84"), 2),
}
each_branch = pytest.mark.parametrize("name", BRANCHES)


@each_branch
def test_label_on_a_displacement_moves_with_the_branch(name: str) -> None:
    branch, opcode_len = BRANCHES[name]
    kernel = template(branch, opcode_len)
    done = kernel.rewrite()
    start, end = done.va("irq_enable"), done.va("irq_enable_end")
    assert start != kernel.va("irq_enable"), "f grew"
    assert done.va("irq_enable_reloc") == end - 4
    assert done.target(end - 4) == done.va("check_events")
    data = kernel.blocks[-1].va
    assert [done.word(data + at) for at in (0, 4, 8)] == [start, end, end - 4]
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))


@each_branch
def test_label_on_a_displacement_of_a_kernel_alone_is_no_function(name: str) -> None:
    kernel = template(*BRANCHES[name], kind=STT_FUNC)
    found = recover(*ship(kernel))
    label = found.image.symbols.by_name["irq_enable_reloc"]
    assert (label.va, label.kind) == (kernel.va("irq_enable_reloc"), STT_NOTYPE)
    output = ElfImage.parse(rewrite(found.kernel).data)
    verdict = check_static(found.image, output, found.fixed)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    new_va = output.symbols.address("irq_enable_reloc")
    assert new_va == (output.symbols.address("irq_enable_end") or 0) - 4


def test_label_elsewhere_in_the_output_is_found_by_the_proof() -> None:
    kernel = template(*BRANCHES["call"])
    done = kernel.rewrite()
    symbol = done.image.symbols.by_name["irq_enable_reloc"]
    table = done.image.section_by_name[".symtab"]
    data = bytearray(done.image.data)
    struct.pack_into("<I", data, table.off + 16 * symbol.index + 4, symbol.va + 1)
    verdict = check_static(kernel.image(), ElfImage.parse(bytes(data)))
    assert SYMBOL_VALUE in {finding.rule for finding in verdict.findings}


def test_site_with_a_label_on_its_operand_stays_native() -> None:
    kernel = SmallKernel()
    start_va = kernel.text.function("f", "0f0115", Word("descriptor"), "fa c3")
    kernel.text.function("after", "c3")
    kernel.labels["operand"] = start_va + 3, STT_NOTYPE, 0
    kernel.writable().label("descriptor")
    kernel.blocks[-1].put(bytes(8))
    found = {site.va: site for site in scan(kernel.image()).sites}
    assert found[start_va].reason is Reason.LABELLED
    assert found[start_va + 7].disposition is Disposition.REWRITTEN
    done = kernel.rewrite()
    assert done.va("operand") == done.va("f") + 3
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    assert INSIDE_BODY not in verdict.totals


def test_label_after_the_byte_of_a_call_in_an_operand_is_an_instruction() -> None:
    kernel = SmallKernel()
    kernel.text.function("f", "fa b8 000000e8")
    kernel.text.label("inside")
    kernel.text.put("31c0 31c0 fa c3")
    kernel.text.function("after", "c3")
    assert scan(kernel.image()).code_map.inner_labels == ()
    done = kernel.rewrite()
    assert done.code("inside", 4) == bytes.fromhex("31c0 31c0")
