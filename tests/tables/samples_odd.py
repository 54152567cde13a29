# SPDX-License-Identifier: MIT
"""Sample images of tables with entries that are not like the others, and of operands."""

from __future__ import annotations

import struct

from tests.support.elfbuilder import TEXT
from tests.tables.samples_code import NOP5
from tests.tables.scene import (
    DATA_VA,
    TABLE_VA,
    TEXT_VA,
    TableDamage,
    TableSample,
    TextScene,
    pointing,
    relative,
    relatives,
    word,
)
from vmipatch.tables.table import TableName

PLACEHOLDER = "efcdab89"


def mcount_with_emptied_entries() -> TableSample:
    """Two functions were overruled by others: the build emptied their entries, and sorted."""
    scene = TextScene()
    calls = [scene.jump(0x10, TEXT_VA, "e8"), scene.put(0x40, NOP5)]
    data = bytes(8) + b"".join(word(va) for va in calls)
    scene.table(".init.data", data, "__start_mcount_loc", "__stop_mcount_loc")
    return TableSample(
        TableName.MCOUNT,
        scene.image(),
        pointing(TABLE_VA + 8, 4, calls),
        [(va, 5) for va in calls],
        [
            TableDamage("entry 3 points below", TABLE_VA + 12, word(0)),
            TableDamage("entry 1 has its call", TABLE_VA + 4, word(1)),
            TableDamage("entry 2 is neither", calls[0], b"\x55"),
        ],
    )


def exception_of_nothing() -> TableSample:
    """An absolute entry of zeros names no instruction."""
    scene = TextScene()
    insns, fixups = [TEXT_VA + 0x20, TEXT_VA + 0x10], [TEXT_VA + 0x100, TEXT_VA + 0x180]
    data = word(insns[0]) + word(fixups[0]) + bytes(8) + word(insns[1]) + word(fixups[1])
    scene.table("__ex_table", data, "__start___ex_table", "__stop___ex_table")
    return TableSample(
        TableName.EX_TABLE,
        scene.image(),
        pointing(TABLE_VA, 16, insns) | pointing(TABLE_VA + 4, 16, fixups),
        damages=[TableDamage("entry 1 has its insn", TABLE_VA + 12, word(TEXT_VA))],
    )


def lock_of_an_alternative() -> TableSample:
    """The second word names a call that an alternative replaces by a locked instruction."""
    scene = TextScene()
    replacement_va = TABLE_VA + 0x100
    scene.builder.section(
        ".altinstr_replacement", replacement_va, bytes.fromhex("f00fc70e90"), TEXT
    )
    locked, called = scene.put(0x10, "f0ff00"), scene.jump(0x20, TEXT_VA + 0x80, "e8")
    other = scene.jump(0x30, TEXT_VA + 0x80, "e8")
    rows = b""
    for i, (original, at, lengths) in enumerate(((called, 0, (5, 4)), (other, 4, (5, 1)))):
        va = TABLE_VA + 0x40 + 12 * i
        rows += relatives(original, replacement_va + at, at_va=va)
        rows += struct.pack("<HBB", 8, *lengths)
    scene.builder.section(".altinstructions", TABLE_VA + 0x40, rows)
    scene.table(".smp_locks", relatives(locked, called), "__smp_locks", "__smp_locks_end")
    prefixes = [locked, called]
    return TableSample(
        TableName.SMP_LOCKS,
        scene.image(),
        pointing(TABLE_VA, 4, prefixes),
        [(va, 1) for va in prefixes],
        [
            TableDamage("entry 1 does not point at a lock", replacement_va, b"\x90"),
            TableDamage(
                "entry 1 does not point at a lock", TABLE_VA + 4, relative(TABLE_VA + 4, other)
            ),
        ],
    )


def runtime_constants() -> TableSample:
    """Sections of three kinds of constants, with filling between them."""
    scene = TextScene()
    pointers = [scene.put(0x10, "b8" + PLACEHOLDER) + 1, scene.put(0x20, "bf" + PLACEHOLDER) + 1]
    shift = scene.put(0x30, "c1ea0c") + 2
    masks = [scene.put(0x40, "2578563412") + 1, scene.put(0x50, "81e378563412") + 2]
    rows = (("shift_d", [shift]), ("ptr_table", pointers), ("mask_m", masks))
    targets: dict[int, int] = {}
    for i, (name, operands) in enumerate(rows):
        va = TABLE_VA + 16 * i
        data = relatives(*operands, at_va=va)
        section = scene.builder.section(f"runtime_{name}", va, data)
        scene.builder.bounds(f"__start_runtime_{name}", f"__stop_runtime_{name}", section)
        targets |= pointing(va, 4, operands)
    return TableSample(
        TableName.RUNTIME_CONSTANTS,
        scene.image(),
        targets,
        [(shift, 1), *((va, 4) for va in (*pointers, *masks))],
        [
            TableDamage("does not point to the operand of `mov", pointers[0] - 1, b"\xa1"),
            TableDamage("does not point to the operand of `mov", pointers[1], b"\xee"),
            TableDamage("does not point to the operand of `shr", shift, b"\x0d"),
            TableDamage("does not point to the operand of `and", masks[1] - 1, b"\xf3"),
            TableDamage("has its operand address", TABLE_VA, relative(TABLE_VA, DATA_VA)),
        ],
    )


SAMPLES = (
    mcount_with_emptied_entries,
    exception_of_nothing,
    lock_of_an_alternative,
    runtime_constants,
)
