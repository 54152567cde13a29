# SPDX-License-Identifier: MIT
"""Is damage found that leaves the kernel's own code whole: in headers, runtime, tables, labels?"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.verify.pair import small_pair
from tests.verify.test_rules import DAMAGES, EditedFile
from vmipatch.verify.static import check_static

Damage = Callable[[EditedFile], None]
VADDR, PADDR, MEMSZ, ALIGN = 8, 12, 20, 28
"""Offsets in a program header (System V ABI, chapter 5)."""


def segment_word(now: EditedFile, field_off: int, value: int) -> None:
    """Overwrite a word of the program header of the records, the last one."""
    table, count = struct.unpack_from("<I", now.data, 28)[0], len(now.image.segments)
    now.put(table + 32 * (count - 1) + field_off, struct.pack("<I", value))


def behind_runtime(now: EditedFile) -> int:
    """The address of the last byte of the added code: filler."""
    return now.image.section_by_name[".vmi.text"].end_va - 1


DAMAGED: dict[str, tuple[str, Damage]] = {
    "records beside the kernel": (
        "VP051",
        lambda now: segment_word(now, PADDR, now.image.segments[-1].pa + 0x1000),
    ),
    "longer than the file": ("VP051", lambda now: segment_word(now, MEMSZ, 0x80F568)),
    "another alignment": ("VP051", lambda now: segment_word(now, ALIGN, 0x2000)),
    "filler": ("VP071", lambda now: now.write(behind_runtime(now), "90")),
    "runtime": ("VP071", lambda now: now.write(now.at("__vmi_start") + 0x60, "cc")),
    "last word of the sums": ("VP071", lambda now: now.record(pad_len=1)),
    "start elsewhere": ("VP073", lambda now: now.symbol_field("__vmi_start", 4, 1)),
    "end of .text": ("VP030", lambda now: now.symbol_field("_etext", 4, 1)),
    "end of .text by a page": ("VP030", lambda now: now.symbol_field("_etext", 4, 0x1000)),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_outside_of_the_kernels_code_is_found(what: str) -> None:
    original, twin = small_pair()
    now = EditedFile(twin)
    number, damage = DAMAGED[what]
    damage(now)
    verdict = check_static(original, now.changed)
    assert number in {rule.number for rule in verdict.totals}, "\n".join(map(str, verdict.findings))


def test_every_byte_of_the_runtime_counts() -> None:
    original, twin = small_pair()
    start_va = twin.symbols.by_name["__vmi_start"].va
    end_va = twin.section_by_name[".vmi.text"].end_va
    for va in range(start_va, end_va, 97):
        now = EditedFile(twin)
        now.write(va, bytes((twin.read(va, 1)[0] ^ 8,)))
        assert "VP071" in {rule.number for rule in check_static(original, now.changed).totals}


def test_damages_name_rules() -> None:
    assert {number for number, _ in DAMAGED.values()} <= {number for number, _ in DAMAGES}
