# SPDX-License-Identifier: MIT
"""Does a jump that is copied over another have its target there, after all has moved?

`_static_cpu_has_safe` of Linux 3.10 to 4.0 stores the displacement that the copy needs.
"""

from __future__ import annotations

import struct

import pytest

from tests.recover.stripped import ship
from tests.rewrite.smallkernel import INIT_DATA_VA, PAGE, Distance, SmallKernel
from tests.support.elfbuilder import RODATA, TEXT
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.recover import recover
from vmipatch.rewrite import rewrite
from vmipatch.verify.static import check_static
from vmipatch.verify.static.rules import TABLE_WORD

JMP_LEN = 5
REPLACEMENT_VA = INIT_DATA_VA + PAGE


def checking(*, corrected: bool = False) -> SmallKernel:
    """Two functions ask for a feature; sites stand between the jump and both of its labels.

    `corrected`: the kernel corrects the copy, as it does from 4.1 on.
    """
    kernel = SmallKernel()
    replacement = kernel.block(".altinstr_replacement", REPLACEMENT_VA, TEXT)
    table = kernel.block(".altinstructions", INIT_DATA_VA, RODATA)
    for name in ("start_kernel", "second"):
        dynamic, absent, check = f".L{name}_dynamic", f".L{name}_absent", f".L{name}_check"
        start_va = kernel.text.function(name, "fa 9c 58", align=16)
        kernel.text.label(check)
        kernel.text.put("e9", Distance(dynamic, -4, relocated=False), "fa 9c 58 c3")
        kernel.text.label(absent)
        kernel.text.put("fb 9c 58 c3")
        kernel.text.label(dynamic)
        kernel.text.put("fa 9c 58 c3")
        kernel.labels[name] = (start_va, kernel.labels[name][1], kernel.text.end_va - start_va)
        repl_va = replacement.end_va
        rise = 0 if corrected else repl_va - kernel.va(check)
        kernel.labels[f"repl_{name}"] = (repl_va, 0, 0)
        replacement.put("e9", Distance(absent, rise - 4, relocated=corrected))
        entry = (Distance(check, 0), Distance(f"repl_{name}", 0))
        table.put(*entry, struct.pack("<HBB", 1, JMP_LEN, JMP_LEN))
    kernel.bounds("__alt_instructions", "__alt_instructions_end", table)
    kernel.text.function("after", "c3")
    return kernel


def copied_targets(image: ElfImage) -> list[int]:
    """Where each replacement jumps from the place that it is copied to."""
    start_va = image.section_by_name[".altinstructions"].va
    found = []
    for at in (start_va, start_va + 12):
        original, replacement = struct.unpack("<ii", image.read(at, 8))
        (reach,) = struct.unpack("<i", image.read(at + 4 + replacement + 1, 4))
        found.append(at + original + JMP_LEN + reach)
    return found


def absent_code(image: ElfImage) -> list[int]:
    """The code after the `ret` before each of the two `sti`: its padding, if any, and the site."""
    text = image.section_by_name[".text"]
    functions = image.section_bytes(text)[: image.symbols.by_name["after"].va - text.va]
    places = [at for at, byte in enumerate(functions) if byte == 0xFB]
    return [text.va + functions.rindex(b"\xc3", 0, at) + 1 for at in places]


@pytest.mark.parametrize("padding", list(Padding))
def test_copied_jump_has_its_target_in_its_function(padding: Padding) -> None:
    kernel = checking()
    before = kernel.image()
    assert copied_targets(before) == absent_code(before)
    done = kernel.rewrite(padding)
    verdict = check_static(before, done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    assert done.va("second") != kernel.va("second")
    assert copied_targets(done.image) == absent_code(done.image)


def test_copied_jump_of_a_kernel_alone_has_its_target() -> None:
    found = recover(*ship(checking()))
    output = ElfImage.parse(rewrite(found.kernel).data)
    verdict = check_static(found.image, output, found.fixed)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    assert copied_targets(output) == absent_code(output)


def test_jump_that_the_kernel_corrects_has_its_target_in_place() -> None:
    kernel = checking(corrected=True)
    done = kernel.rewrite()
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    targets = [done.target(done.va(f"repl_{name}") + 1) for name in ("start_kernel", "second")]
    assert targets == absent_code(done.image)


def test_wrong_copied_jump_is_found_by_the_proof() -> None:
    kernel = checking()
    done = kernel.rewrite()
    va = done.va("repl_second") + 1
    data = bytearray(done.image.data)
    struct.pack_into("<I", data, done.image.offset_of(va), done.word(va) + 1)
    verdict = check_static(kernel.image(), ElfImage.parse(bytes(data)))
    assert {finding.rule for finding in verdict.findings} == {TABLE_WORD}
