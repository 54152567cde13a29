# SPDX-License-Identifier: MIT
"""Is a note for `restore` refused that gives another file than the one that was named?"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from tests.files.samples import module
from tests.rewrite.smallkernel import SmallKernel
from vmipatch.files.module import ModuleFile
from vmipatch.files.open import open_bytes
from vmipatch.image.elf import ElfImage
from vmipatch.restore import SECTION, Note, WithoutNote, rebuild, restore, with_note, without_note
from vmipatch.rewrite.rewrite import rewrite
from vmipatch.verify.static.check import check_static
from vmipatch.verify.static.module import check_module


def pair() -> tuple[ElfImage, ElfImage]:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa 9c 58 fb f4 c3")
    kernel.text.function("capable", "31c0 c3")
    original = kernel.image()
    return original, ElfImage.parse(rewrite(original).data)


def broken(original: ElfImage, output: ElfImage) -> set[str]:
    verdict = check_static(original, output, original_sha256=original.file_sha256)
    return {rule.number for rule in verdict.totals}


def test_honest_note_gives_the_original() -> None:
    original, output = pair()
    verdict = check_static(original, output, original_sha256=original.file_sha256)
    assert verdict.holds, verdict.findings
    assert verdict.counts["bytes given back"] == len(original.data)


def test_note_that_gives_another_kernel_by_its_own_hash_is_refused() -> None:
    original, output = pair()
    section = output.section_by_name[SECTION]
    note = Note.unpack(output.section_bytes(section), "output")
    data = rebuild(WithoutNote.of(output, section.off, b""), note)
    assert data == original.data
    at = original.offset_of(original.symbols.by_name["capable"].va)
    evil = data[:at] + b"\xb0\x01" + data[at + 2 :]
    where = np.array(sorted({*note.wrong_at.tolist(), at, at + 1}), np.int64)
    right = bytes(evil[int(off)] for off in where)
    changed = replace(note, sha256=hashlib.sha256(evil).digest(), wrong_at=where, right=right)
    mutant = ElfImage.parse(with_note(without_note(output), changed.pack()))
    assert restore(mutant).data == evil
    assert broken(original, mutant) == {"VP145"}


def test_kernel_without_its_note_is_refused() -> None:
    original, output = pair()
    assert broken(original, without_note(output)) == {"VP145"}


def test_module_that_gives_another_module_back_is_refused() -> None:
    first, second = (open_bytes(module(code), "m.ko") for code in ("9c 58 fa c3", "9c 5b fa c3"))
    assert isinstance(first, ModuleFile) and isinstance(second, ModuleFile)
    made = first.rewrite().data
    assert check_module(first.unpacked, made).holds
    assert "VP145" in {r.number for r in check_module(second.unpacked, made).totals}
