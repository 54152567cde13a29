# SPDX-License-Identifier: MIT
"""Sample images of the tables that name instructions the kernel looks up or patches."""

from __future__ import annotations

import struct

from tests.support.elfbuilder import TEXT
from tests.tables.scene import (
    DATA_VA,
    OUTSIDE,
    RODATA_VA,
    TABLE_VA,
    TEXT_LEN,
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

NOP5 = "3e8d742600"


def ex_table() -> TableSample:
    scene = TextScene()
    pairs = [(TEXT_VA + 0x10, TEXT_VA + 0x200), (TEXT_VA + 0x20, TEXT_VA + 0x180)]
    data = b"".join(
        relatives(*pair, at_va=TABLE_VA + 12 * i) + word(3) for i, pair in enumerate(pairs)
    )
    scene.table("__ex_table", data, "__start___ex_table", "__stop___ex_table")
    scene.builder.section("sort_flag", RODATA_VA, bytes(4))
    scene.builder.symbol("main_extable_sort_needed", RODATA_VA)
    return TableSample(
        TableName.EX_TABLE,
        scene.image(),
        pointing(TABLE_VA, 12, [a for a, _ in pairs])
        | pointing(TABLE_VA + 4, 12, [b for _, b in pairs]),
        damages=[
            TableDamage("entry 0 has its insn", TABLE_VA, relative(TABLE_VA, OUTSIDE)),
            TableDamage("entry 1 has its fixup", TABLE_VA + 16, word(0)),
            TableDamage("entry 1 points below", TABLE_VA + 12, relative(TABLE_VA + 12, TEXT_VA)),
        ],
    )


def mcount() -> TableSample:
    scene = TextScene()
    calls = [scene.jump(0x10, TEXT_VA, "e8"), scene.put(0x40, NOP5), scene.put(0x80, "0f1f440000")]
    data = b"".join(word(va) for va in calls)
    scene.table(".init.data", data, "__start_mcount_loc", "__stop_mcount_loc")
    return TableSample(
        TableName.MCOUNT,
        scene.image(),
        pointing(TABLE_VA, 4, calls),
        [(va, 5) for va in calls],
        [
            TableDamage("entry 0 has its call", TABLE_VA, word(OUTSIDE)),
            TableDamage("entry 1 is neither", TABLE_VA + 4, word(TEXT_VA + 0x41)),
            TableDamage("entry 2 names a call that an entry before", TABLE_VA + 8, word(calls[1])),
            TableDamage("entry 0 is neither", calls[0], b"\x55"),
        ],
    )


def alternatives() -> TableSample:
    scene = TextScene()
    repl_va = TABLE_VA + 0x100
    scene.builder.section(".altinstr_replacement", repl_va, b"\x0f\xae\xe8", TEXT)
    originals = [TEXT_VA + 0x10, TEXT_VA + 0x20]
    replacements = [repl_va, repl_va + 3]
    data = b""
    for i, (original, replacement, lengths) in enumerate(
        zip(originals, replacements, [(6, 3), (2, 0)], strict=True)
    ):
        data += relatives(original, replacement, at_va=TABLE_VA + 12 * i)
        data += struct.pack("<HBB", 0x8000 | i, *lengths)
    scene.table(".altinstructions", data, "__alt_instructions", "__alt_instructions_end")
    return TableSample(
        TableName.ALTERNATIVES,
        scene.image(),
        pointing(TABLE_VA, 12, originals) | pointing(TABLE_VA + 4, 12, replacements),
        [(originals[0], 6), (replacements[0], 3), (originals[1], 2), (replacements[1], 0)],
        [
            TableDamage("entry 0 has its original", TABLE_VA, relative(TABLE_VA, DATA_VA)),
            TableDamage(
                "entry 0 has its original", TABLE_VA, relative(TABLE_VA, TEXT_VA + TEXT_LEN - 5)
            ),
            TableDamage(
                "entry 0 has its replacement", TABLE_VA + 4, relative(TABLE_VA + 4, TEXT_VA)
            ),
            TableDamage("entry 0 has its replacement", TABLE_VA + 11, b"\x04"),
            TableDamage("entry 0 has a replacement longer", TABLE_VA + 10, b"\x02"),
            TableDamage("entry 1 has its original", TABLE_VA + 22, b"\x00"),
            TableDamage("entry 1 names no processor", TABLE_VA + 20, b"\xff\x7f"),
        ],
    )


def altinstr_replacement() -> TableSample:
    scene = TextScene()
    repl_va = TABLE_VA + 0x100
    code = b"\xe9" + relative(repl_va + 5, TEXT_VA + 0x80)
    code += bytes.fromhex("e801000000cc5a")  # a call inside of the replacement: not an address
    scene.builder.section(".altinstr_replacement", repl_va, code, TEXT)
    data = relatives(TEXT_VA + 0x10, repl_va) + struct.pack("<HBB", 1, 5, 5)
    data += relatives(TEXT_VA + 0x20, repl_va + 5, at_va=TABLE_VA + 12)
    data += struct.pack("<HBB", 2, 7, 7)
    scene.table(".altinstructions", data, "__alt_instructions", "__alt_instructions_end")
    return TableSample(
        TableName.ALTINSTR_REPLACEMENT,
        scene.image(),
        {repl_va + 1: TEXT_VA + 0x80},
        [(repl_va, 5), (repl_va + 5, 7)],
        [TableDamage("leads out of the code", repl_va + 1, relative(repl_va + 5, DATA_VA))],
    )


def jumps_for_their_copies() -> TableSample:
    """Displacements as the copies need them: read in place, both targets lie in the replacements'
    section, in a third replacement, or outside of the code.
    """
    scene = TextScene()
    repl_va = TABLE_VA + 0x100
    originals = [scene.jump(0x10, TEXT_VA + 0x80), scene.jump(0x140, TEXT_VA + 0x190)]
    targets = [TEXT_VA + 0x20, TEXT_VA + 0x100]
    code, data = b"", b""
    for i, (original, target) in enumerate(zip(originals, targets, strict=True)):
        code += b"\xe9" + relative(original + 5, target)
        data += relatives(original, repl_va + 5 * i, at_va=TABLE_VA + 12 * i)
        data += struct.pack("<HBB", 1, 5, 5)
    code += b"\xe8" + relative(repl_va + 15, TEXT_VA + 0x60)  # a call is corrected
    data += relatives(TEXT_VA + 0x200, repl_va + 10, at_va=TABLE_VA + 24)
    data += struct.pack("<HBB", 2, 5, 5)
    scene.builder.section(".altinstr_replacement", repl_va, code, TEXT)
    scene.table(".altinstructions", data, "__alt_instructions", "__alt_instructions_end")
    return TableSample(
        TableName.ALTINSTR_REPLACEMENT,
        scene.image(),
        pointing(repl_va + 1, 5, [*targets, TEXT_VA + 0x60]),
        [(repl_va, 5), (repl_va + 5, 5), (repl_va + 10, 5)],
        [
            TableDamage("leads out of the code", repl_va + 1, relative(originals[0] + 5, DATA_VA)),
            TableDamage("leads out of the code", originals[1], b"\x90"),
        ],
    )


def parainstructions() -> TableSample:
    scene = TextScene()
    sites = [
        scene.put(0x10, bytes.fromhex("ff15") + word(DATA_VA)),
        scene.put(0x30, bytes.fromhex("ff25") + word(DATA_VA)),
    ]
    data = b"".join(struct.pack("<IBBH", va, 7, 6, 0) for va in sites)
    scene.table(".parainstructions", data, "__parainstructions", "__parainstructions_end")
    return TableSample(
        TableName.PARAINSTRUCTIONS,
        scene.image(),
        pointing(TABLE_VA, 8, sites),
        [(va, 6) for va in sites],
        [
            TableDamage("entry 1 lies outside", TABLE_VA + 8, word(OUTSIDE)),
            TableDamage("entry 0 is not an indirect", sites[0], b"\x90"),
            TableDamage("entry 0 is too short", TABLE_VA + 5, b"\x01"),
            TableDamage("entry 0 is not an indirect", TABLE_VA + 5, b"\x05"),
        ],
    )


def smp_locks() -> TableSample:
    scene = TextScene()
    prefixes = [scene.put(0x10, "f0ff00"), scene.put(0x20, "3eff00")]
    data = relatives(*prefixes).ljust(16, b"\0")
    scene.table(".smp_locks", data, "__smp_locks", "__smp_locks_end")
    return TableSample(
        TableName.SMP_LOCKS,
        scene.image(),
        pointing(TABLE_VA, 4, prefixes),
        [(va, 1) for va in prefixes],
        [
            TableDamage("entry 0 has its prefix", TABLE_VA, relative(TABLE_VA, DATA_VA)),
            TableDamage("entry 1 does not point at a lock", prefixes[1], b"\x90"),
            TableDamage("entry 3 has its prefix", TABLE_VA + 12, word(2)),
        ],
    )


def bug_table() -> TableSample:
    scene = TextScene()
    bugs = [scene.put(0x40, "0f0b"), scene.put(0x10, "0f0b")]
    data = b"".join(struct.pack("<IIHH", va, DATA_VA + va % 16, 7, 1) for va in bugs)
    scene.table("__bug_table", data, "__start___bug_table", "__stop___bug_table")
    return TableSample(
        TableName.BUG_TABLE,
        scene.image(),
        pointing(TABLE_VA, 12, bugs)
        | pointing(TABLE_VA + 4, 12, [DATA_VA + va % 16 for va in bugs]),
        [(va, 2) for va in bugs],
        [
            TableDamage("entry 0 has its bug", TABLE_VA, word(OUTSIDE)),
            TableDamage("entry 1 does not point at a ud2", TABLE_VA + 12, word(bugs[1] + 1)),
            TableDamage("entry 1 has its file", TABLE_VA + 16, word(OUTSIDE)),
        ],
    )


def jump_table() -> TableSample:
    scene = TextScene()
    rows = [
        (scene.jump(0x10, TEXT_VA + 0x100), TEXT_VA + 0x100, DATA_VA + 8),
        (scene.put(0x20, NOP5), TEXT_VA + 0x110, DATA_VA + 16),
        (scene.put(0x30, "ebee"), TEXT_VA + 0x20, DATA_VA + 8),
        (scene.put(0x40, "6690"), TEXT_VA + 0x50, DATA_VA),
    ]
    targets = [target for row in rows for target in row]
    stored = [t + 1 if i % 3 == 2 else t for i, t in enumerate(targets)]  # keys carry flags
    scene.table("__jump_table", relatives(*stored), "__start___jump_table", "__stop___jump_table")
    return TableSample(
        TableName.JUMP_TABLE,
        scene.image(),
        pointing(TABLE_VA, 4, targets),
        [(row[0], length) for row, length in zip(rows, (5, 5, 2, 2), strict=True)],
        [
            TableDamage("entry 0 has its code", TABLE_VA, relative(TABLE_VA, OUTSIDE)),
            TableDamage("entry 1 is neither", rows[1][0], b"\x55"),
            TableDamage("entry 0 jumps to another", TEXT_VA + 0x11, word(4)),
            TableDamage("entry 2 jumps to another", TEXT_VA + 0x31, b"\x02"),
            TableDamage("entry 3 has its key", TABLE_VA + 44, relative(TABLE_VA + 44, OUTSIDE)),
            TableDamage("entry 3 has its target", TABLE_VA + 40, relative(TABLE_VA + 40, DATA_VA)),
        ],
    )


def static_calls() -> TableSample:
    scene = TextScene()
    first_va = scene.jump(0x100, TEXT_VA + 0x10)
    scene.put(0x105, "0fb9cc")
    scene.put(0x108, "c3cc9090900fb9cc")
    scene.builder.symbol("__static_call_text_start", first_va)
    scene.builder.symbol("__static_call_text_end", first_va + 16)
    return TableSample(
        TableName.STATIC_CALLS,
        scene.image(),
        {first_va + 1: TEXT_VA + 0x10},
        [(first_va, 8), (first_va + 8, 8)],
        [
            TableDamage("entry 0 lacks its signature", first_va + 6, b"\xb8"),
            TableDamage("entry 1 begins with neither", first_va + 8, b"\x90"),
            TableDamage("entry 0 has its target", first_va + 1, word(0x00800000)),
            TableDamage("entry 1 has other code", first_va + 10, b"\x55"),
        ],
    )


SAMPLES = (
    ex_table,
    mcount,
    alternatives,
    altinstr_replacement,
    jumps_for_their_copies,
    parainstructions,
    smp_locks,
    bug_table,
    jump_table,
    static_calls,
)
