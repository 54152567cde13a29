# SPDX-License-Identifier: MIT
"""Sample images of the layouts that older kernels have, of tables that 6.1 lays out otherwise."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.support.elfbuilder import TEXT
from tests.tables.samples_code import NOP5
from tests.tables.samples_names import FUNCTIONS
from tests.tables.scene import (
    DATA_VA,
    OUTSIDE,
    RODATA_VA,
    TABLE_VA,
    TEXT_VA,
    Damage,
    Sample,
    Scene,
    pointing,
    relative,
    relatives,
    word,
)
from vmipatch.image.symbols import STT_OBJECT
from vmipatch.tables.table import TableName

INSNS = [TEXT_VA + 0x10, TEXT_VA + 0x20, TEXT_VA + 0x30]
FIXUPS = [TEXT_VA + 0x200, TEXT_VA + 0x180, TEXT_VA + 0x190]
USER_ACCESS = 0x7FFFFFF0


def ex_table_with_handlers() -> Sample:
    scene = Scene()
    handlers = [TEXT_VA + 0x300, TEXT_VA + 0x310, TEXT_VA + 0x300]
    rows = [list(row) for row in zip(INSNS, FIXUPS, handlers, strict=True)]
    scene.table("__ex_table", relatives(*[va for row in rows for va in row]))
    return Sample(
        TableName.EX_TABLE,
        scene.image(),
        pointing(TABLE_VA, 4, [va for row in rows for va in row]),
        damages=[
            Damage("entry 1 has its handler", TABLE_VA + 20, relative(TABLE_VA + 20, DATA_VA)),
            Damage("entry 2 points below", TABLE_VA + 24, relative(TABLE_VA + 24, TEXT_VA)),
        ],
    )


def ex_table_of_pairs() -> Sample:
    """The second fixup is one of a user access."""
    scene = Scene()
    data = bytearray(relatives(*[va for pair in zip(INSNS, FIXUPS, strict=True) for va in pair]))
    marked_va = TABLE_VA + 12
    data[12:16] = word(INSNS[1] + 3 - marked_va + USER_ACCESS)
    scene.table("__ex_table", bytes(data))
    fixups = [FIXUPS[0], INSNS[1] + 3, FIXUPS[2]]
    return Sample(
        TableName.EX_TABLE,
        scene.image(),
        pointing(TABLE_VA, 8, INSNS) | pointing(TABLE_VA + 4, 8, fixups),
        damages=[
            Damage("entry 1 has its fixup", marked_va, word(0x7FFFF000)),
            Damage("entry 2 points below", TABLE_VA + 16, relative(TABLE_VA + 16, TEXT_VA)),
        ],
    )


def ex_table_absolute() -> Sample:
    """In the order of the objects; the last fixup is a distance, and no address."""
    scene = Scene()
    insns = [INSNS[1], INSNS[0], INSNS[2]]
    data = b"".join(word(a) + word(b) for a, b in zip(insns, [*FIXUPS[:2], 3], strict=True))
    scene.table("__ex_table", data)
    return Sample(
        TableName.EX_TABLE,
        scene.image(),
        pointing(TABLE_VA, 8, insns) | pointing(TABLE_VA + 4, 8, FIXUPS[:2]),
        damages=[
            Damage("entry 2 has its fixup", TABLE_VA + 20, word(16)),
            Damage("entry 1 has its insn", TABLE_VA + 8, word(DATA_VA)),
        ],
    )


def mcount_operands() -> Sample:
    scene = Scene()
    calls = [scene.jump(at, TEXT_VA, "e8") for at in (0x80, 0x10, 0x40)]
    data = b"".join(word(va + 1) for va in calls)
    scene.table(".init.data", data, "__start_mcount_loc", "__stop_mcount_loc")
    return Sample(
        TableName.MCOUNT,
        scene.image(),
        pointing(TABLE_VA, 4, calls),
        [(va, 5) for va in calls],
        [
            Damage("entry 1 is neither", TABLE_VA + 4, word(TEXT_VA + 0x202)),
            Damage("entry 1 names a call", TABLE_VA + 4, word(calls[0] + 1)),
        ],
    )


def mcount_unsorted() -> Sample:
    scene = Scene()
    calls = [scene.jump(0x40, TEXT_VA, "e8"), scene.put(0x10, NOP5)]
    data = b"".join(word(va) for va in calls)
    scene.table(".init.data", data, "__start_mcount_loc", "__stop_mcount_loc")
    return Sample(
        TableName.MCOUNT,
        scene.image(),
        pointing(TABLE_VA, 4, calls),
        [(va, 5) for va in calls],
        [Damage("entry 1 names a call", TABLE_VA + 4, word(calls[0]))],
    )


ORIGINALS = [TEXT_VA + 0x10, TEXT_VA + 0x20]
REPL_VA = TABLE_VA + 0x100
REPLACEMENTS = [REPL_VA, REPL_VA + 3]


def _alternatives(
    rows: list[bytes],
    damages: list[Damage],
    *,
    form: Callable[[int, int], bytes],
    name: TableName = TableName.ALTERNATIVES,
) -> Sample:
    """Two entries with the addresses `form` makes, and the rest of each in `rows`."""
    scene = Scene()
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
        lengths = (rest[2], rest[3]) if len(rest) > 3 and not rest[1] else (rest[1], rest[2])
        places += [(ORIGINALS[i], lengths[0]), (REPLACEMENTS[i], lengths[1])]
    targets = pointing(TABLE_VA, step, ORIGINALS) | pointing(TABLE_VA + 4, step, REPLACEMENTS)
    return Sample(name, scene.image(), targets, places, damages)


def _absolute(va: int, target: int) -> bytes:
    return word(target)


def alternatives_with_nops() -> Sample:
    return _alternatives(
        [struct.pack("<HBBB", 3, 6, 3, 2), struct.pack("<HBBB", 4, 5, 1, 5)],
        [
            Damage("entry 1 has more nops", TABLE_VA + 25, b"\x06"),
            Damage("entry 0 has a replacement longer", TABLE_VA + 10, b"\x02"),
            Damage("entry 1 names no processor", TABLE_VA + 22, b"\xff\x7f"),
        ],
        form=relative,
    )


def alternatives_absolute() -> Sample:
    return _alternatives(
        [struct.pack("<HBB", 0x99, 6, 3), struct.pack("<HBB", 0x3F, 5, 1)],
        [
            Damage("entry 0 has its original", TABLE_VA, word(DATA_VA)),
            Damage("entry 1 names no processor", TABLE_VA + 21, b"\x02"),
        ],
        form=_absolute,
    )


def alternatives_of_bytes() -> Sample:
    """The first entry with the proof that its replacement is short enough, the second without
    its last byte.
    """
    return _alternatives(
        [bytes((0x1A, 6, 3, 0xFF + 3 - 6)), bytes((0x99, 5, 1))],
        [
            Damage("entry 1 has its original", TABLE_VA + 12, word(OUTSIDE)),
            Damage("entry 0 has no filling", TABLE_VA + 11, b"\x77"),
            Damage("entry 1 has its original", TABLE_VA + 21, b"\x00"),
        ],
        form=_absolute,
    )


def smp_alternatives() -> Sample:
    return _alternatives(
        [bytes((0x69, 6, 3, 0)), bytes((0x69, 5, 1, 0))],
        [Damage("entry 1 has its replacement", TABLE_VA + 16, word(TEXT_VA))],
        form=_absolute,
        name=TableName.SMP_ALTERNATIVES,
    )


def paravirt_calls_between_pushes() -> Sample:
    scene = Scene()
    call = bytes.fromhex("ff15") + word(DATA_VA)
    sites = [
        scene.put(0x10, b"\x51\x52" + call + b"\x5a\x59"),
        scene.put(0x30, bytes.fromhex("2eff25") + word(DATA_VA)),
    ]
    data = struct.pack("<IBBH", sites[0], 3, 10, 1) + struct.pack("<IBBH", sites[1], 4, 7, 0)
    scene.table(".parainstructions", data, "__start_parainstructions", "__stop_parainstructions")
    return Sample(
        TableName.PARAINSTRUCTIONS,
        scene.image(),
        pointing(TABLE_VA, 8, sites),
        [(sites[0], 10), (sites[1], 7)],
        [Damage("entry 0 is no indirect", TABLE_VA + 5, b"\x07")],
    )


def smp_locks_absolute() -> Sample:
    scene = Scene()
    prefixes = [scene.put(0x10, "f0ff00"), scene.put(0x20, "f0ff00")]
    scene.table(".smp_locks", b"".join(map(word, prefixes)), "__smp_locks", "__smp_locks_end")
    return Sample(
        TableName.SMP_LOCKS,
        scene.image(),
        pointing(TABLE_VA, 4, prefixes),
        [(va, 1) for va in prefixes],
        [Damage("entry 1 has its prefix", TABLE_VA + 4, word(DATA_VA))],
    )


def _bugs(layout: str, form: Callable[[int, int], bytes]) -> Sample:
    scene = Scene()
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
    wrong = Damage(
        "entry 1 does not point at a ud2", TABLE_VA + step, form(TABLE_VA + step, TEXT_VA)
    )
    return Sample(TableName.BUG_TABLE, scene.image(), targets, [(va, 2) for va in bugs], [wrong])


def inline_bugs() -> Sample:
    """Two records; a third ud2 is followed by a word that names data, and is none."""
    scene = Scene()
    scene.builder.section(".rodata", RODATA_VA, b"\0mm/slab.c\0kernel/sched.c\0")
    files = [RODATA_VA + 1, RODATA_VA + 11]
    bugs = [
        scene.put(0x13 + 0x40 * i, b"\x0f\x0b" + struct.pack("<HI", 0xFA + i, file))
        for i, file in enumerate(files)
    ]
    scene.put(0x200, b"\x0f\x0b\x66\xa3" + word(DATA_VA))
    return Sample(
        TableName.INLINE_BUGS,
        scene.image(),
        pointing(bugs[0] + 4, 0x40, files),
        [(va, 8) for va in bugs],
    )


def jump_labels_absolute() -> Sample:
    scene = Scene()
    rows = [
        (scene.put(0x10, "e900000000"), TEXT_VA + 0x100, DATA_VA + 8),
        (scene.jump(0x20, TEXT_VA + 0x110), TEXT_VA + 0x110, DATA_VA + 16),
    ]
    targets = [target for row in rows for target in row]
    scene.table("__jump_table", b"".join(map(word, targets)))
    return Sample(
        TableName.JUMP_TABLE,
        scene.image(),
        pointing(TABLE_VA, 4, targets),
        [(row[0], 5) for row in rows],
        [
            Damage("entry 0 jumps to another", rows[0][0] + 1, word(1)),
            Damage("entry 1 has its key", TABLE_VA + 20, word(OUTSIDE)),
        ],
    )


def static_calls_without_signature() -> Sample:
    scene = Scene()
    first_va = scene.jump(0x100, TEXT_VA + 0x10)
    scene.put(0x105, "8d7600")
    scene.put(0x108, "c390909090")
    scene.builder.symbol("__static_call_text_start", first_va)
    scene.builder.symbol("__static_call_text_end", first_va + 13)
    return Sample(
        TableName.STATIC_CALLS,
        scene.image(),
        {first_va + 1: TEXT_VA + 0x10},
        [(first_va, 5), (first_va + 8, 5)],
        [
            Damage("entry 0 has other bytes", first_va + 6, b"\xb8"),
            Damage("entry 1 begins with neither", first_va + 8, b"\x90"),
        ],
    )


def _exports(name: TableName, columns: int, form: Callable[[int, int], bytes]) -> Sample:
    scene = Scene()
    scene.builder.section("__ksymtab_strings", RODATA_VA, b"\0alpha\0beta\0")
    rows = [(DATA_VA + 4, RODATA_VA + 1), (TEXT_VA + 0x10, RODATA_VA + 7)]
    if form is _absolute:
        rows.reverse()  # the order of the objects
    data = b"".join(
        form(TABLE_VA + 8 * i + 4 * k, row[k]) for i, row in enumerate(rows) for k in range(columns)
    )
    scene.table(name.value, data)
    value_va = TABLE_VA + 8
    return Sample(
        name,
        scene.image(),
        pointing(TABLE_VA, 4, [va for row in rows for va in row]),
        damages=[
            Damage("entry 1 has its value", value_va, form(value_va, 0xC2000000)),
            Damage("entry 1 has its name", value_va + 4, form(value_va + 4, 0xC2000000)),
            Damage("a name that is no text", RODATA_VA + 2, b"\x07"),
        ],
    )


def checksums(name: TableName) -> Sample:
    """One of the checksums looks like an address of the code, and must not follow it."""
    scene = Scene()
    scene.builder.section("__ksymtab_strings", RODATA_VA, b"\0alpha\0beta\0")
    exports = word(DATA_VA) + word(RODATA_VA + 1) + word(TEXT_VA) + word(RODATA_VA + 7)
    ksymtab = name.value.replace("kcrctab", "ksymtab")
    scene.builder.section(ksymtab, RODATA_VA + 0x40, exports)
    scene.table(name.value, word(0x12345678) + word(TEXT_VA + 0x20))
    return Sample(
        name,
        scene.image(),
        {TABLE_VA: 0x12345678, TABLE_VA + 4: TEXT_VA + 0x20},
        values=True,
    )


def kallsyms_of_addresses() -> Sample:
    """The first and the last symbol are absolute ones."""
    scene = Scene()
    symbols = [0x10, TEXT_VA, TEXT_VA + 4, DATA_VA, 0xFFFFE400]
    parts = {
        "kallsyms_addresses": b"".join(map(word, symbols)),
        "kallsyms_num_syms": word(len(symbols)),
        "kallsyms_names": b"\x01a\x01b\x01c\x01d\x01e\0\0",
        "kallsyms_markers": word(0),
    }
    at_va, blob = {}, b""
    for name, part in parts.items():
        at_va[name] = TABLE_VA + len(blob)
        scene.builder.symbol(name, at_va[name])
        blob += part
    scene.table(".rodata", blob)
    return Sample(
        TableName.KALLSYMS,
        scene.image(),
        pointing(TABLE_VA + 4, 4, symbols[1:4]),
        damages=[
            Damage("entry 3 lies below", TABLE_VA + 12, word(TEXT_VA)),
            Damage("entry 5 lies below", at_va["kallsyms_num_syms"], word(6)),
            Damage("there are not 5 names", at_va["kallsyms_names"], b"\x7f"),
        ],
    )


def initcalls_absolute(name: TableName, section: str) -> Sample:
    scene = Scene()
    scene.table(section, b"".join(map(word, FUNCTIONS)))
    wrong = [Damage("entry 1 has its function", TABLE_VA + 4, word(DATA_VA))]
    targets = pointing(TABLE_VA, 4, FUNCTIONS)
    return Sample(name, scene.image(), targets, damages=wrong)


def pci_fixups_absolute() -> Sample:
    scene = Scene()
    rows = [struct.pack("<HHIII", 0x8086, i, 0, 8, va) for i, va in enumerate(FUNCTIONS)]
    scene.table(".pci_fixup", b"".join(rows))
    return Sample(
        TableName.PCI_FIXUPS,
        scene.image(),
        pointing(TABLE_VA + 12, 16, FUNCTIONS),
        damages=[Damage("entry 1 has no class shift", TABLE_VA + 24, word(7))],
    )


def pci_fixups_without_class() -> Sample:
    scene = Scene()
    rows = [struct.pack("<HHI", 0x8086, 0x1234 + i, va) for i, va in enumerate(FUNCTIONS[:2])]
    scene.table(".pci_fixup", b"".join(rows))
    return Sample(
        TableName.PCI_FIXUPS,
        scene.image(),
        pointing(TABLE_VA + 4, 8, FUNCTIONS[:2]),
        damages=[Damage("entry 1 has its hook", TABLE_VA + 12, word(0))],
    )


def syscalls_without_size() -> Sample:
    scene = Scene()
    data = b"".join(map(word, FUNCTIONS)) + bytes(8) + b"behind"
    scene.table(".rodata", data)
    scene.builder.symbol("sys_call_table", TABLE_VA)
    scene.builder.symbol("behind", TABLE_VA + 20)
    return Sample(
        TableName.SYSCALLS,
        scene.image(),
        pointing(TABLE_VA, 4, FUNCTIONS),
        damages=[Damage("entry 2 has its function", TABLE_VA + 8, word(1))],
    )


def interrupts() -> Sample:
    scene = Scene()
    stubs = [TEXT_VA + 0x10, TEXT_VA + 0x17, TEXT_VA + 0x20]
    scene.table(".data.early", b"".join(map(word, stubs)))
    scene.builder.symbol("interrupt", TABLE_VA, size=12, kind=STT_OBJECT)
    return Sample(
        TableName.INTERRUPTS,
        scene.image(),
        pointing(TABLE_VA, 4, stubs),
        damages=[
            Damage("entry 1 does not lead behind", TABLE_VA + 4, word(stubs[0])),
            Damage("entry 2 has its stub", TABLE_VA + 8, word(DATA_VA)),
        ],
    )


def stubs_counting_down() -> Sample:
    scene = Scene()
    code = b""
    for i in range(4):
        jump_end = TABLE_VA + 8 * i + 7
        code += bytes((0x6A, 0x5F - i)) + b"\xe9" + relative(jump_end, TEXT_VA) + b"\x90"
    jump_va = TABLE_VA + 8 * 4 + 4
    code += bytes((0x6A, 0x5B, 0xEB, 0x10)) + bytes.fromhex("8d742600")
    scene.builder.section(".init.text", TABLE_VA, code.ljust(0x40, b"\x90"), TEXT)
    scene.builder.symbol("irq_entries_start", TABLE_VA, size=len(code))
    return Sample(
        TableName.IRQ_STUBS,
        scene.image(),
        {},
        [(TABLE_VA + 8 * i, 8) for i in range(5)],
        [
            Damage("entry 4 is not a push", jump_va, b"\x55"),
            Damage("entry 2 pushes a vector", TABLE_VA + 17, b"\x11"),
        ],
    )


def stubs_in_packs() -> Sample:
    """A pack of seven, and one of two that ends with its jump."""
    scene = Scene()
    full = b"".join(bytes((0x6A, 0x5F - i, 0xEB, 2 + 4 * (6 - i) - 4)) for i in range(6))
    full += bytes((0x6A, 0x59))
    full = (full + b"\xe9" + relative(TABLE_VA + len(full) + 5, TEXT_VA)).ljust(32, b"\x90")
    last = bytes((0x6A, 0x58, 0xEB, 4, 0x6A, 0x57, 0xEB, 0))
    last += b"\xe9" + relative(TABLE_VA + 32 + len(last) + 5, TEXT_VA)
    code = full + last
    scene.builder.section(".init.text", TABLE_VA, code.ljust(0x60, b"\xcc"), TEXT)
    scene.builder.symbol("irq_entries_start", TABLE_VA, size=len(code))
    return Sample(
        TableName.IRQ_STUBS,
        scene.image(),
        {},
        [(TABLE_VA, 31), (TABLE_VA + 32, len(last))],
        [
            Damage("entry 1 pushes a vector", TABLE_VA + 33, b"\x11"),
            Damage("entry 0 is no row", TABLE_VA + 7, b"\x00"),
            Damage("entry 1 jumps out", TABLE_VA + 32 + 9, word(0x01000000)),
        ],
    )


def early_stubs_with_nops() -> Sample:
    scene = Scene()
    code = b""
    for i in range(3):
        first = bytes.fromhex("89f6") if i == 1 else b"\x6a\0"
        code += first + bytes((0x6A, i)) + b"\xe9" + relative(TABLE_VA + 9 * i + 9, TEXT_VA)
    scene.builder.section(".init.text", TABLE_VA, code, TEXT)
    scene.builder.symbol("early_idt_handlers", TABLE_VA, size=len(code))
    return Sample(
        TableName.EARLY_STUBS,
        scene.image(),
        {},
        [(TABLE_VA + 9 * i, 9) for i in range(3)],
        [Damage("entry 1 is not a push", TABLE_VA + 9, b"\x55")],
    )


SAMPLES: tuple[Callable[[], Sample], ...] = (
    ex_table_with_handlers,
    ex_table_of_pairs,
    ex_table_absolute,
    mcount_operands,
    mcount_unsorted,
    alternatives_with_nops,
    alternatives_absolute,
    alternatives_of_bytes,
    smp_alternatives,
    paravirt_calls_between_pushes,
    smp_locks_absolute,
    lambda: _bugs("12", _absolute),
    lambda: _bugs("8", _absolute),
    lambda: _bugs("12", relative),
    lambda: _bugs("8", relative),
    inline_bugs,
    jump_labels_absolute,
    static_calls_without_signature,
    lambda: _exports(TableName.KSYMTAB, 2, relative),
    lambda: _exports(TableName.KSYMTAB_GPL, 2, _absolute),
    lambda: _exports(TableName.KSYMTAB_UNUSED, 2, _absolute),
    lambda: _exports(TableName.KSYMTAB_UNUSED_GPL, 2, _absolute),
    lambda: _exports(TableName.KSYMTAB_GPL_FUTURE, 2, _absolute),
    lambda: checksums(TableName.KCRCTAB),
    lambda: checksums(TableName.KCRCTAB_GPL),
    lambda: checksums(TableName.KCRCTAB_UNUSED),
    lambda: checksums(TableName.KCRCTAB_UNUSED_GPL),
    lambda: checksums(TableName.KCRCTAB_GPL_FUTURE),
    kallsyms_of_addresses,
    lambda: initcalls_absolute(TableName.INITCALLS, ".initcall.init"),
    lambda: initcalls_absolute(TableName.CON_INITCALLS, ".con_initcall.init"),
    lambda: initcalls_absolute(TableName.SECURITY_INITCALLS, ".security_initcall.init"),
    pci_fixups_absolute,
    pci_fixups_without_class,
    syscalls_without_size,
    interrupts,
    stubs_counting_down,
    stubs_in_packs,
    early_stubs_with_nops,
)
