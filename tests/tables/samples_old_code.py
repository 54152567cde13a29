# SPDX-License-Identifier: MIT
"""Sample images of the tables that lead into code, in the layouts that older kernels have."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

from tests.support.elfbuilder import TEXT
from tests.tables.samples_code import NOP5
from tests.tables.scene import (
    DATA_VA,
    OUTSIDE,
    RODATA_VA,
    TABLE_VA,
    TEXT_VA,
    TableDamage,
    TableSample,
    TextScene,
    absolute,
    pointing,
    relative,
    relatives,
    word,
)
from vmipatch.tables.table import TableName

INSNS = [TEXT_VA + 0x10, TEXT_VA + 0x20, TEXT_VA + 0x30]
FIXUPS = [TEXT_VA + 0x200, TEXT_VA + 0x180, TEXT_VA + 0x190]
USER_ACCESS = 0x7FFFFFF0


def ex_table_with_handlers() -> TableSample:
    scene = TextScene()
    handlers = [TEXT_VA + 0x300, TEXT_VA + 0x310, TEXT_VA + 0x300]
    rows = [list(row) for row in zip(INSNS, FIXUPS, handlers, strict=True)]
    scene.table("__ex_table", relatives(*[va for row in rows for va in row]))
    return TableSample(
        TableName.EX_TABLE,
        scene.image(),
        pointing(TABLE_VA, 4, [va for row in rows for va in row]),
        damages=[
            TableDamage("entry 1 has its handler", TABLE_VA + 20, relative(TABLE_VA + 20, DATA_VA)),
            TableDamage("entry 2 points below", TABLE_VA + 24, relative(TABLE_VA + 24, TEXT_VA)),
        ],
    )


def ex_table_of_pairs() -> TableSample:
    """The second fixup is one of a user access."""
    scene = TextScene()
    data = bytearray(relatives(*[va for pair in zip(INSNS, FIXUPS, strict=True) for va in pair]))
    marked_va = TABLE_VA + 12
    data[12:16] = word(INSNS[1] + 3 - marked_va + USER_ACCESS)
    scene.table("__ex_table", bytes(data))
    fixups = [FIXUPS[0], INSNS[1] + 3, FIXUPS[2]]
    return TableSample(
        TableName.EX_TABLE,
        scene.image(),
        pointing(TABLE_VA, 8, INSNS) | pointing(TABLE_VA + 4, 8, fixups),
        damages=[
            TableDamage("entry 1 has its fixup", marked_va, word(0x7FFFF000)),
            TableDamage("entry 2 points below", TABLE_VA + 16, relative(TABLE_VA + 16, TEXT_VA)),
        ],
    )


def ex_table_absolute() -> TableSample:
    """In the order of the objects; the last fixup is a distance, and no address."""
    scene = TextScene()
    insns = [INSNS[1], INSNS[0], INSNS[2]]
    data = b"".join(word(a) + word(b) for a, b in zip(insns, [*FIXUPS[:2], 3], strict=True))
    scene.table("__ex_table", data)
    return TableSample(
        TableName.EX_TABLE,
        scene.image(),
        pointing(TABLE_VA, 8, insns) | pointing(TABLE_VA + 4, 8, FIXUPS[:2]),
        damages=[
            TableDamage("entry 2 has its fixup", TABLE_VA + 20, word(16)),
            TableDamage("entry 1 has its insn", TABLE_VA + 8, word(DATA_VA)),
        ],
    )


def mcount_operands() -> TableSample:
    scene = TextScene()
    calls = [scene.jump(at, TEXT_VA, "e8") for at in (0x80, 0x10, 0x40)]
    data = b"".join(word(va + 1) for va in calls)
    scene.table(".init.data", data, "__start_mcount_loc", "__stop_mcount_loc")
    return TableSample(
        TableName.MCOUNT,
        scene.image(),
        pointing(TABLE_VA, 4, calls),
        [(va, 5) for va in calls],
        [
            TableDamage("entry 1 is neither", TABLE_VA + 4, word(TEXT_VA + 0x202)),
            TableDamage("entry 1 names a call", TABLE_VA + 4, word(calls[0] + 1)),
        ],
    )


def mcount_unsorted() -> TableSample:
    scene = TextScene()
    calls = [scene.jump(0x40, TEXT_VA, "e8"), scene.put(0x10, NOP5)]
    data = b"".join(word(va) for va in calls)
    scene.table(".init.data", data, "__start_mcount_loc", "__stop_mcount_loc")
    return TableSample(
        TableName.MCOUNT,
        scene.image(),
        pointing(TABLE_VA, 4, calls),
        [(va, 5) for va in calls],
        [TableDamage("entry 1 names a call", TABLE_VA + 4, word(calls[0]))],
    )


ORIGINALS = [TEXT_VA + 0x10, TEXT_VA + 0x20]
REPL_VA = TABLE_VA + 0x100
REPLACEMENTS = [REPL_VA, REPL_VA + 3]


def _alternatives(
    rows: list[bytes],
    damages: list[TableDamage],
    *,
    form: Callable[[int, int], bytes],
    lengths_at: int,
    name: TableName = TableName.ALTERNATIVES,
) -> TableSample:
    """Two entries with the addresses `form` makes, and the rest of each in `rows`: its lengths
    begin at byte `lengths_at`.
    """
    scene = TextScene()
    prefix = ".smp_" if name is TableName.SMP_ALTERNATIVES else "."
    scene.builder.section(f"{prefix}altinstr_replacement", REPL_VA, b"\x0f\xae\xe8\x90", TEXT)
    step = 8 + len(rows[0])
    data = b""
    for i, rest in enumerate(rows):
        va = TABLE_VA + step * i
        data += form(va, ORIGINALS[i]) + form(va + 4, REPLACEMENTS[i]) + rest
    scene.table(f"{prefix}altinstructions", data)
    places = []
    for i, rest in enumerate(rows):
        places += [(ORIGINALS[i], rest[lengths_at]), (REPLACEMENTS[i], rest[lengths_at + 1])]
    targets = pointing(TABLE_VA, step, ORIGINALS) | pointing(TABLE_VA + 4, step, REPLACEMENTS)
    return TableSample(name, scene.image(), targets, places, damages)


def alternatives_with_nops() -> TableSample:
    return _alternatives(
        [struct.pack("<HBBB", 3, 6, 3, 2), struct.pack("<HBBB", 4, 5, 1, 5)],
        [
            TableDamage("entry 1 has more nops", TABLE_VA + 25, b"\x06"),
            TableDamage("entry 0 has a replacement longer", TABLE_VA + 10, b"\x02"),
            TableDamage("entry 1 names no processor", TABLE_VA + 22, b"\xff\x7f"),
        ],
        form=relative,
        lengths_at=2,
    )


def alternatives_absolute() -> TableSample:
    return _alternatives(
        [struct.pack("<HBB", 0x99, 6, 3), struct.pack("<HBB", 0x3F, 5, 1)],
        [
            TableDamage("entry 0 has its original", TABLE_VA, word(DATA_VA)),
            TableDamage("entry 1 names no processor", TABLE_VA + 21, b"\x02"),
        ],
        form=absolute,
        lengths_at=2,
    )


def alternatives_of_bytes() -> TableSample:
    """The first entry with the proof that its replacement is short enough, the second without
    its last byte.
    """
    return _alternatives(
        [bytes((0x1A, 6, 3, 0xFF + 3 - 6)), bytes((0x99, 5, 1))],
        [
            TableDamage("entry 1 has its original", TABLE_VA + 12, word(OUTSIDE)),
            TableDamage("entry 0 has no filling", TABLE_VA + 11, b"\x77"),
            TableDamage("entry 1 has its original", TABLE_VA + 21, b"\x00"),
        ],
        form=absolute,
        lengths_at=1,
    )


def alternatives_without_a_replacement() -> TableSample:
    """The second entry turns its original into nops."""
    scene = TextScene()
    scene.builder.section(".altinstr_replacement", REPL_VA, b"\x0f\xae\xe8\x90", TEXT)
    rows = [bytes((0x1A, 6, 3, 0xFF + 3 - 6)), bytes((0x9A, 5, 0, 0xFF - 5))]
    data = word(ORIGINALS[0]) + word(REPLACEMENTS[0]) + rows[0]
    data += word(ORIGINALS[1]) + word(0) + rows[1]
    scene.table(".altinstructions", data)
    return TableSample(
        TableName.ALTERNATIVES,
        scene.image(),
        pointing(TABLE_VA, 12, ORIGINALS) | {TABLE_VA + 4: REPLACEMENTS[0]},
        [(ORIGINALS[0], 6), (REPLACEMENTS[0], 3), (ORIGINALS[1], 5)],
        [
            TableDamage("entry 1 has its replacement", TABLE_VA + 22, b"\x01"),
            TableDamage("entry 0 has its replacement", TABLE_VA + 4, word(0)),
        ],
    )


def alternatives_relative_without_a_replacement(rests: tuple[bytes, bytes]) -> TableSample:
    """The second entry of `rests` (what follows its two words) turns its original into nops."""
    scene = TextScene()
    scene.builder.section(".altinstr_replacement", REPL_VA, b"\x0f\xae\xe8\x90", TEXT)
    step = 8 + len(rests[0])
    data = relatives(ORIGINALS[0], REPLACEMENTS[0]) + rests[0]
    data += relative(TABLE_VA + step, ORIGINALS[1]) + word(0) + rests[1]
    scene.table(".altinstructions", data)
    return TableSample(
        TableName.ALTERNATIVES,
        scene.image(),
        pointing(TABLE_VA, step, ORIGINALS) | {TABLE_VA + 4: REPLACEMENTS[0]},
        [(ORIGINALS[0], 6), (REPLACEMENTS[0], 3), (ORIGINALS[1], 5)],
        [
            TableDamage("entry 0 has its replacement", TABLE_VA + 4, word(0)),
            TableDamage(
                "entry 1 has its replacement", TABLE_VA + step + 4, relative(REPL_VA, TEXT_VA)
            ),
        ],
    )


def alternatives_with_flags() -> TableSample:
    """The feature's number has 16 bits to itself: what inverts it is a flag."""
    return _alternatives(
        [struct.pack("<HHBB", 0x2A3, 1, 6, 3), struct.pack("<HHBB", 0x75, 2, 5, 1)],
        [
            TableDamage("entry 0 names no processor", TABLE_VA + 9, b"\x80"),
            TableDamage("entry 1 has flags", TABLE_VA + 24, b"\x04"),
            TableDamage("entry 0 has a replacement longer", TABLE_VA + 12, b"\x02"),
            TableDamage(
                "entry 1 has its original", TABLE_VA + 14, relative(TABLE_VA + 14, DATA_VA)
            ),
        ],
        form=relative,
        lengths_at=4,
    )


def smp_alternatives() -> TableSample:
    return _alternatives(
        [bytes((0x69, 6, 3, 0)), bytes((0x69, 5, 1, 0))],
        [TableDamage("entry 1 has its replacement", TABLE_VA + 16, word(TEXT_VA))],
        form=absolute,
        lengths_at=1,
        name=TableName.SMP_ALTERNATIVES,
    )


def paravirt_calls_between_pushes() -> TableSample:
    scene = TextScene()
    call = bytes.fromhex("ff15") + word(DATA_VA)
    sites = [
        scene.put(0x10, b"\x51\x52" + call + b"\x5a\x59"),
        scene.put(0x30, bytes.fromhex("2eff25") + word(DATA_VA)),
    ]
    data = struct.pack("<IBBH", sites[0], 3, 10, 1) + struct.pack("<IBBH", sites[1], 4, 7, 0)
    scene.table(".parainstructions", data, "__start_parainstructions", "__stop_parainstructions")
    return TableSample(
        TableName.PARAINSTRUCTIONS,
        scene.image(),
        pointing(TABLE_VA, 8, sites),
        [(sites[0], 10), (sites[1], 7)],
        [TableDamage("entry 0 is not an indirect", TABLE_VA + 5, b"\x07")],
    )


def paravirt_calls_by_any_operand() -> TableSample:
    """As a compiler of today makes them of "m": a base, an index, a base and a distance."""
    scene = TextScene()
    codes = {0x10: "5152ff530c5a59", 0x20: "ff1485" + word(DATA_VA).hex(), 0x30: "ffa080000000"}
    sites = [scene.put(at, code) for at, code in codes.items()]
    lens = [len(bytes.fromhex(code)) for code in codes.values()]
    data = b"".join(
        struct.pack("<IBBH", *row, 1) for row in zip(sites, (3, 4, 5), lens, strict=True)
    )
    scene.table(".parainstructions", data, "__parainstructions", "__parainstructions_end")
    return TableSample(
        TableName.PARAINSTRUCTIONS,
        scene.image(),
        pointing(TABLE_VA, 8, sites),
        list(zip(sites, lens, strict=True)),
        [
            TableDamage("entry 0 is not an indirect", sites[0] + 3, b"\xd3"),
            TableDamage("entry 1 is not an indirect", TABLE_VA + 13, b"\x06"),
            TableDamage("entry 2 is not an indirect", sites[2] + 1, b"\xb0"),
        ],
    )


def smp_locks_absolute() -> TableSample:
    scene = TextScene()
    prefixes = [scene.put(0x10, "f0ff00"), scene.put(0x20, "f0ff00")]
    scene.table(".smp_locks", b"".join(map(word, prefixes)), "__smp_locks", "__smp_locks_end")
    return TableSample(
        TableName.SMP_LOCKS,
        scene.image(),
        pointing(TABLE_VA, 4, prefixes),
        [(va, 1) for va in prefixes],
        [TableDamage("entry 1 has its prefix", TABLE_VA + 4, word(DATA_VA))],
    )


def _bugs(layout: str, form: Callable[[int, int], bytes]) -> TableSample:
    scene = TextScene()
    bugs = [scene.put(0x40, "0f0b"), scene.put(0x10, "0fff"), scene.put(0x50, "0fb9")]
    with_file = layout == "12"
    step = 12 if with_file else 8
    data, targets = b"", {}
    for i, bug in enumerate(bugs):
        va = TABLE_VA + step * i
        data += form(va, bug)
        targets[va] = bug
        if with_file:
            data += form(va + 4, DATA_VA + 8)
            targets[va + 4] = DATA_VA + 8
        data += struct.pack("<HH", 7, 0)
    scene.table("__bug_table", data)
    wrong = TableDamage(
        "entry 1 does not point at a ud2", TABLE_VA + step, form(TABLE_VA + step, TEXT_VA)
    )
    return TableSample(
        TableName.BUG_TABLE, scene.image(), targets, [(va, 2) for va in bugs], [wrong]
    )


def inline_bugs() -> TableSample:
    """Two records; a third ud2 is followed by a word that names data, and is not a record."""
    scene = TextScene()
    scene.builder.section(".rodata", RODATA_VA, b"\0mm/slab.c\0kernel/sched.c\0")
    files = [RODATA_VA + 1, RODATA_VA + 11]
    bugs = [
        scene.put(0x13 + 0x40 * i, b"\x0f\x0b" + struct.pack("<HI", 0xFA + i, file))
        for i, file in enumerate(files)
    ]
    scene.put(0x200, b"\x0f\x0b\x66\xa3" + word(DATA_VA))
    return TableSample(
        TableName.INLINE_BUGS,
        scene.image(),
        pointing(bugs[0] + 4, 0x40, files),
        [(va, 8) for va in bugs],
    )


def jump_labels_absolute() -> TableSample:
    scene = TextScene()
    rows = [
        (scene.put(0x10, "e900000000"), TEXT_VA + 0x100, DATA_VA + 8),
        (scene.jump(0x20, TEXT_VA + 0x110), TEXT_VA + 0x110, DATA_VA + 16),
    ]
    targets = [target for row in rows for target in row]
    scene.table("__jump_table", b"".join(map(word, targets)))
    return TableSample(
        TableName.JUMP_TABLE,
        scene.image(),
        pointing(TABLE_VA, 4, targets),
        [(row[0], 5) for row in rows],
        [
            TableDamage("entry 0 jumps to another", rows[0][0] + 1, word(1)),
            TableDamage("entry 1 has its key", TABLE_VA + 20, word(OUTSIDE)),
        ],
    )


def static_calls_without_signature(filling: str) -> TableSample:
    """`filling` is what the linker puts after the last trampoline of an object."""
    scene = TextScene()
    first_va = scene.jump(0x100, TEXT_VA + 0x10)
    scene.put(0x105, filling)
    scene.put(0x108, "c390909090")
    scene.builder.symbol("__static_call_text_start", first_va)
    scene.builder.symbol("__static_call_text_end", first_va + 13)
    return TableSample(
        TableName.STATIC_CALLS,
        scene.image(),
        {first_va + 1: TEXT_VA + 0x10},
        [(first_va, 5), (first_va + 8, 5)],
        [
            TableDamage("entry 0 has other bytes", first_va + 6, b"\xb8"),
            TableDamage("entry 1 begins with neither", first_va + 8, b"\x90"),
        ],
    )


SAMPLES: tuple[Callable[[], TableSample], ...] = (
    ex_table_with_handlers,
    ex_table_of_pairs,
    ex_table_absolute,
    mcount_operands,
    mcount_unsorted,
    alternatives_with_nops,
    alternatives_absolute,
    alternatives_of_bytes,
    alternatives_without_a_replacement,
    lambda: alternatives_relative_without_a_replacement(
        (struct.pack("<HBB", 0x1A, 6, 3), struct.pack("<HBB", 0x8003, 5, 0))
    ),
    lambda: alternatives_relative_without_a_replacement(
        (struct.pack("<HBBB", 0x1A, 6, 3, 0), struct.pack("<HBBB", 3, 5, 0, 0))
    ),
    lambda: alternatives_relative_without_a_replacement(
        (struct.pack("<HHBB", 0x1A, 0, 6, 3), struct.pack("<HHBB", 3, 1, 5, 0))
    ),
    alternatives_with_flags,
    smp_alternatives,
    paravirt_calls_between_pushes,
    paravirt_calls_by_any_operand,
    smp_locks_absolute,
    lambda: _bugs("12", absolute),
    lambda: _bugs("8", absolute),
    lambda: _bugs("12", relative),
    lambda: _bugs("8", relative),
    inline_bugs,
    jump_labels_absolute,
    *(
        partial(static_calls_without_signature, filling)
        for filling in ("8d7600", "909090", "cccccc", "0000cc", "669090")
    ),
)
