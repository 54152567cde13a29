# SPDX-License-Identifier: MIT
"""Does `restore` give back the file that was named as the original?

The note of the output is executed. What it gives is compared with the original, and not with what
the note says of itself.
"""

from __future__ import annotations

import hashlib

from vmipatch.errors import VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import Module
from vmipatch.image.packed import unpack
from vmipatch.image.trim import without_debug
from vmipatch.restore import (
    SECTION,
    Gives,
    is_canonical,
    is_canonical_module,
    restore,
    restore_module,
)
from vmipatch.verify.static.rules import WAY_BACK
from vmipatch.verify.static.verdict import Report

WORD_LEN = 4
"""The length of a note is a multiple."""
NOT_WRITTEN = "the note is not written as vmipatch writes it"


def check_way_back(
    original: ElfImage, output: ElfImage, original_sha256: str, report: Report
) -> None:
    """The note of a vmlinux: `original_sha256` is of the whole file that was rewritten.

    `original` may have more symbols and relocations than that, and no debug sections.
    """
    try:
        back = restore(output)
        note = output.section_bytes(output.section_by_name[SECTION])
        written = is_canonical(note) and not len(note) % WORD_LEN
    except VmipatchError as error:
        report.add(WAY_BACK, 0, error.message, SECTION)
        return
    if not written:
        report.add(WAY_BACK, 0, NOT_WRITTEN, SECTION)
    if back.gives is Gives.INPUT:
        is_right = back.sha256 == original_sha256
    else:
        is_right = back.gives is Gives.WITHOUT_DEBUG and _is_part(back.data, original)
    if not is_right:
        message = f"the note gives {back.sha256}, the original has {original_sha256}"
        report.add(WAY_BACK, 0, message, SECTION)
    else:
        report.counts["bytes given back"] += len(back.data)


def _is_part(data: bytes, original: ElfImage) -> bool:
    """Whether `data` is the original without debug sections, or each of its sections is there.

    An original whose references were completed from elsewhere has more sections than its file.
    """
    if hashlib.sha256(data).digest() == hashlib.sha256(without_debug(original).data).digest():
        return True
    try:
        image = ElfImage.parse(data)
    except VmipatchError:
        return False
    known = {(s.name, s.va, original.section_bytes(s)) for s in original.sections}
    kept = [s for s in image.sections if not s.is_debug and (s.is_alloc or s.name == ".comment")]
    return bool(kept) and all((s.name, s.va, image.section_bytes(s)) in known for s in kept)


def check_module_way_back(original: bytes, output: bytes, name: str, report: Report) -> None:
    """The note of a module: `original` is the file as it was stored, `output` without signature."""
    try:
        back = restore_module(output, name)
        image = Module.parse(output, name).file
        note = image.section_bytes(image.section_by_name[SECTION])
        written = is_canonical_module(note) and not len(note) % WORD_LEN
        unpacked = unpack(original, name)
        file = Module.parse(unpacked, name).file
    except VmipatchError as error:
        report.add(WAY_BACK, 0, error.message, SECTION)
        return
    if not written:
        report.add(WAY_BACK, 0, NOT_WRITTEN, SECTION)
    signature = unpacked[len(file.data) :]
    targets = {
        Gives.INPUT: original,
        Gives.UNPACKED: unpacked,
        Gives.WITHOUT_DEBUG: without_debug(file).data + signature,
    }
    if back.data != targets.get(back.gives):
        digest = hashlib.sha256(original).hexdigest()
        message = f"the note gives {back.sha256}, the original has {digest}"
        report.add(WAY_BACK, 0, message, SECTION)
    else:
        report.counts["bytes given back"] += len(back.data)
