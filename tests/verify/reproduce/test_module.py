# SPDX-License-Identifier: MIT
"""Is a rewritten module the file that the proof puts together?"""

from __future__ import annotations

import struct

from tests.verify.test_module import sample
from vmipatch.image.module import Module
from vmipatch.rewrite.module import rewrite_module
from vmipatch.verify.static.module import check_module

INFO = 28
"""Offset of sh_info in a section header (System V ABI, chapter 4)."""


def numbers(original: bytes, output: bytes) -> set[str]:
    """The rules that an output breaks."""
    return {rule.number for rule in check_module(original, output).totals}


def test_module_is_reproduced_to_the_last_byte() -> None:
    original = sample()
    output = rewrite_module(original, "small").data
    ledger = check_module(original, output).file
    assert ledger is not None
    assert (ledger.file_len, ledger.unexplained) == (len(output), 0)


def test_bytes_between_sections_of_a_module_are_zeros() -> None:
    original = sample()
    output = bytearray(rewrite_module(original, "small").data)
    file = Module.parse(bytes(output)).file
    sections = sorted((s for s in file.sections if s.is_alloc and s.size), key=lambda s: s.off)
    ends = {s.off + s.size for s in sections} - {s.off for s in sections}
    gap = min(end for end in ends if end < sections[-1].off)
    assert output[gap] == 0
    output[gap] = 0x90
    assert "VP106" in numbers(original, bytes(output))


def test_field_of_a_section_header_that_nothing_reads_is_computed() -> None:
    original = sample()
    output = bytearray(rewrite_module(original, "small").data)
    (table,) = struct.unpack_from("<I", output, 32)
    index = Module.parse(bytes(output)).file.section_by_name[".data"].index
    struct.pack_into("<I", output, table + 40 * index + INFO, 1)
    assert "VP101" in numbers(original, bytes(output))


def test_note_of_a_module_gives_the_original() -> None:
    original = sample()
    output = bytearray(rewrite_module(original, "small").data)
    note = Module.parse(bytes(output)).file.section_by_name[".vmi.restore"]
    output[note.off + note.size // 2] ^= 1
    assert "VP145" in numbers(original, bytes(output))
