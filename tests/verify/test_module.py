# SPDX-License-Identifier: MIT
"""Is a wrong rewrite of a module caught, and a right one proven?"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.elfbuilder import RODATA
from tests.support.smallmodule import BranchTo, Distance, SmallModule, Word
from vmipatch.image.elf import SECTION_HEADER_LEN, SHOFF_AT, ElfImage
from vmipatch.image.module import Module
from vmipatch.image.relocations import RAW_REL
from vmipatch.rewrite.module import rewrite_module
from vmipatch.verify.static.module import check_module
from vmipatch.verify.static.rules import (
    ANNOTATION_RELOCATION,
    BRANCH_LEADS_ELSEWHERE,
    DATA_CHANGED,
    FILE_END,
    FOREIGN_SIGNATURE,
    INSTRUCTION_CHANGED,
    NATIVE_UNLISTED,
    NEW_SECTION,
    RECORD_CALL,
    RELOCATION_ENTRY,
    RELOCATION_LEADS_ELSEWHERE,
    Rule,
)


def sample() -> bytes:
    module = SmallModule()
    text = module.section(".text")
    text.function("f", "9c 58 fa", BranchTo("g"), BranchTo("printk"), "a1", Word(".data", 4), "c3")
    text.function("g", "0f32 e664 fb c3")
    module.section(".init.text").function("start", "fa", BranchTo("f"), "c3")
    module.section(".data", RODATA, 4).put(Word(".text", 2), "11223344")
    module.section("__ex_table", RODATA, 4).put(
        Distance(".text", 2), Distance(".text", 3), "00000000"
    )
    return module.build()


@pytest.fixture(scope="module")
def pair() -> tuple[bytes, bytes]:
    original = sample()
    return original, rewrite_module(original, "small").data


def test_right_rewrite_is_proven(pair: tuple[bytes, bytes]) -> None:
    verdict = check_module(*pair)
    assert verdict.findings == ()
    assert verdict.counts["records"] == 6


def test_module_without_sites_is_proven_as_it_is() -> None:
    module = SmallModule()
    module.section(".text").function("f", "fa c3")  # traps at CPL 1
    assert check_module(module.build(), module.build()).holds


def test_module_that_needs_a_rewrite_is_not_proven_as_it_is() -> None:
    verdict = check_module(sample(), sample())
    assert set(verdict.totals) == {NATIVE_UNLISTED}


def test_signature_after_a_rewritten_module_is_a_finding(pair: tuple[bytes, bytes]) -> None:
    signed = pair[1] + bytes(12) + b"~Module signature appended~\n"
    assert set(check_module(pair[0], signed).totals) == {FOREIGN_SIGNATURE, FILE_END}


Fault = Callable[[ElfImage, bytearray], None]


def _off(file: ElfImage, section: str, at: int = 0) -> int:
    return file.section_by_name[section].off + at


def _body_changed(file: ElfImage, data: bytearray) -> None:
    data[_off(file, ".text", 5)] ^= 1  # the first of the prefixes in front of cli


def _call_led_elsewhere(file: ElfImage, data: bytearray) -> None:
    at = _off(file, ".text", 11)
    assert data[at - 1] == 0xE8
    struct.pack_into("<i", data, at, struct.unpack_from("<i", data, at)[0] + 1)


def _word_led_elsewhere(file: ElfImage, data: bytearray) -> None:
    data[_off(file, ".data")] ^= 1


def _data_changed(file: ElfImage, data: bytearray) -> None:
    data[_off(file, ".data", 4)] ^= 1


def _record_calls_another(file: ElfImage, data: bytearray) -> None:
    data[_off(file, ".vmi.annotation", 16)] ^= 1


def _relocation_of_record_gone(file: ElfImage, data: bytearray) -> None:
    """The address that the linked image has is stored instead: only a loader would notice."""
    linked = Module.parse(bytes(data)).image
    rel = file.section_by_name[".rel.vmi.annotation"]
    raw = np.frombuffer(data, RAW_REL, rel.size // 8, rel.off)
    at = int(raw["offset"][0])
    struct.pack_into("<I", data, rel.off + 4, 0)
    off = _off(file, ".vmi.annotation", at)
    data[off : off + 4] = linked.read(linked.section_by_name[".vmi.annotation"].va + at, 4)


def _relocation_names_another_section(file: ElfImage, data: bytearray) -> None:
    """Right in the linked image, where .init.text is a fixed distance from .text."""
    linked = Module.parse(bytes(data)).image
    symbols = {s.section: s for s in linked.symbols if s.kind == 3}
    text, init = (symbols[file.section_by_name[n].index] for n in (".text", ".init.text"))
    rel = file.section_by_name[".rel.vmi.annotation"]
    (offset, info) = struct.unpack_from("<II", data, rel.off)
    assert info >> 8 == text.index
    struct.pack_into("<I", data, rel.off + 4, init.index << 8 | info & 0xFF)
    off = _off(file, ".vmi.annotation", offset)
    held = struct.unpack_from("<I", data, off)[0] + text.va - init.va
    struct.pack_into("<I", data, off, held & 0xFFFFFFFF)


def _relocation_of_code_gone(file: ElfImage, data: bytearray) -> None:
    rel = file.section_by_name[".rel.text"]
    struct.pack_into("<I", data, rel.off + 4, 0)


def _section_renamed(file: ElfImage, data: bytearray) -> None:
    at = data.index(b"\0.vmi.annotation.init\0") + 1
    data[at : at + 4] = b".vmX"


def _section_made_writable(file: ElfImage, data: bytearray) -> None:
    at = int.from_bytes(data[SHOFF_AT : SHOFF_AT + 4], "little")
    data[at + SECTION_HEADER_LEN * file.section_by_name[".vmi.translation"].index + 8] |= 1


FAULTS: tuple[tuple[Fault, Rule], ...] = (
    (_body_changed, INSTRUCTION_CHANGED),
    (_call_led_elsewhere, BRANCH_LEADS_ELSEWHERE),
    (_word_led_elsewhere, RELOCATION_LEADS_ELSEWHERE),
    (_data_changed, DATA_CHANGED),
    (_record_calls_another, RECORD_CALL),
    (_relocation_of_record_gone, ANNOTATION_RELOCATION),
    (_relocation_names_another_section, ANNOTATION_RELOCATION),
    (_relocation_of_code_gone, RELOCATION_ENTRY),
    (_section_renamed, NEW_SECTION),
    (_section_made_writable, NEW_SECTION),
)


@pytest.mark.parametrize(("fault", "rule"), FAULTS, ids=lambda part: getattr(part, "__name__", ""))
def test_seeded_fault_is_found(pair: tuple[bytes, bytes], fault: Fault, rule: Rule) -> None:
    data = bytearray(pair[1])
    fault(Module.parse(pair[1]).file, data)
    assert data != pair[1]
    assert rule in check_module(pair[0], bytes(data)).totals
