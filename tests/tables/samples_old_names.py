# SPDX-License-Identifier: MIT
"""Sample images of the tables of names, pointers and stubs, in the layouts of older kernels."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.support.elfbuilder import DATA, TEXT
from tests.tables.samples_names import FUNCTIONS
from tests.tables.scene import (
    DATA_VA,
    RODATA_VA,
    TABLE_VA,
    TEXT_VA,
    TableDamage,
    TableSample,
    TextScene,
    absolute,
    pointing,
    relative,
    word,
)
from vmipatch.image.symbols import STT_OBJECT
from vmipatch.tables.table import TableName


def _exports(name: TableName, columns: int, form: Callable[[int, int], bytes]) -> TableSample:
    scene = TextScene()
    scene.builder.section("__ksymtab_strings", RODATA_VA, b"\0alpha\0beta\0")
    rows = [(DATA_VA + 4, RODATA_VA + 1), (TEXT_VA + 0x10, RODATA_VA + 7)]
    if form is absolute:
        rows.reverse()  # the order of the objects
    data = b"".join(
        form(TABLE_VA + 8 * i + 4 * k, row[k]) for i, row in enumerate(rows) for k in range(columns)
    )
    scene.table(name.value, data)
    value_va = TABLE_VA + 8
    return TableSample(
        name,
        scene.image(),
        pointing(TABLE_VA, 4, [va for row in rows for va in row]),
        damages=[
            TableDamage("entry 1 has its value", value_va, form(value_va, 0xC2000000)),
            TableDamage("entry 1 has its name", value_va + 4, form(value_va + 4, 0xC2000000)),
            TableDamage("a name that is not text", RODATA_VA + 2, b"\x07"),
        ],
    )


def checksums(name: TableName) -> TableSample:
    """One of the checksums looks like an address of the code, and must not follow it."""
    scene = TextScene()
    scene.builder.section("__ksymtab_strings", RODATA_VA, b"\0alpha\0beta\0")
    exports = word(DATA_VA) + word(RODATA_VA + 1) + word(TEXT_VA) + word(RODATA_VA + 7)
    ksymtab = name.value.replace("kcrctab", "ksymtab")
    scene.builder.section(ksymtab, RODATA_VA + 0x40, exports)
    scene.table(name.value, word(0x12345678) + word(TEXT_VA + 0x20))
    return TableSample(
        name,
        scene.image(),
        {TABLE_VA: 0x12345678, TABLE_VA + 4: TEXT_VA + 0x20},
        values=True,
    )


def kallsyms_of_addresses() -> TableSample:
    """The first and the last symbol are absolute ones."""
    scene = TextScene()
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
    return TableSample(
        TableName.KALLSYMS,
        scene.image(),
        pointing(TABLE_VA + 4, 4, symbols[1:4]),
        damages=[
            TableDamage("entry 3 lies below", TABLE_VA + 12, word(TEXT_VA)),
            TableDamage("entry 5 lies below", at_va["kallsyms_num_syms"], word(6)),
            TableDamage("there are not 5 names", at_va["kallsyms_names"], b"\x7f"),
        ],
    )


def initcalls_absolute(name: TableName, section: str) -> TableSample:
    scene = TextScene()
    scene.table(section, b"".join(map(word, FUNCTIONS)))
    wrong = [TableDamage("entry 1 has its function", TABLE_VA + 4, word(DATA_VA))]
    targets = pointing(TABLE_VA, 4, FUNCTIONS)
    return TableSample(name, scene.image(), targets, damages=wrong)


def pci_fixups_absolute() -> TableSample:
    scene = TextScene()
    rows = [struct.pack("<HHIII", 0x8086, i, 0, 8, va) for i, va in enumerate(FUNCTIONS)]
    scene.table(".pci_fixup", b"".join(rows))
    return TableSample(
        TableName.PCI_FIXUPS,
        scene.image(),
        pointing(TABLE_VA + 12, 16, FUNCTIONS),
        damages=[TableDamage("entry 1 has no class shift", TABLE_VA + 24, word(7))],
    )


def pci_fixups_without_class() -> TableSample:
    scene = TextScene()
    rows = [struct.pack("<HHI", 0x8086, 0x1234 + i, va) for i, va in enumerate(FUNCTIONS[:2])]
    scene.table(".pci_fixup", b"".join(rows))
    return TableSample(
        TableName.PCI_FIXUPS,
        scene.image(),
        pointing(TABLE_VA + 4, 8, FUNCTIONS[:2]),
        damages=[TableDamage("entry 1 has its hook", TABLE_VA + 12, word(0))],
    )


def syscalls_without_size() -> TableSample:
    """The array ends at a symbol whose name another one has, too."""
    scene = TextScene()
    data = b"".join(map(word, FUNCTIONS)) + bytes(8) + b"after..."
    scene.table(".rodata", data)
    scene.builder.symbol("sys_call_table", TABLE_VA)
    scene.builder.symbol("after", TABLE_VA + 20)
    scene.builder.symbol("after", TABLE_VA + 28)
    return TableSample(
        TableName.SYSCALLS,
        scene.image(),
        pointing(TABLE_VA, 4, FUNCTIONS),
        damages=[TableDamage("entry 2 has its function", TABLE_VA + 8, word(1))],
    )


def interrupts() -> TableSample:
    scene = TextScene()
    stubs = [TEXT_VA + 0x10, TEXT_VA + 0x17, TEXT_VA + 0x20]
    scene.table(".data.early", b"".join(map(word, stubs)))
    scene.builder.symbol("interrupt", TABLE_VA, size=12, kind=STT_OBJECT)
    return TableSample(
        TableName.INTERRUPTS,
        scene.image(),
        pointing(TABLE_VA, 4, stubs),
        damages=[
            TableDamage("entry 1 does not target code after", TABLE_VA + 4, word(stubs[0])),
            TableDamage("entry 2 has its stub", TABLE_VA + 8, word(DATA_VA)),
        ],
    )


def stubs_counting_down() -> TableSample:
    scene = TextScene()
    code = b""
    for i in range(4):
        jump_end = TABLE_VA + 8 * i + 7
        code += bytes((0x6A, 0x5F - i)) + b"\xe9" + relative(jump_end, TEXT_VA) + b"\x90"
    jump_va = TABLE_VA + 8 * 4 + 4
    code += bytes((0x6A, 0x5B, 0xEB, 0x10)) + bytes.fromhex("8d742600")
    scene.builder.section(".init.text", TABLE_VA, code.ljust(0x40, b"\x90"), TEXT)
    scene.builder.symbol("irq_entries_start", TABLE_VA, size=len(code))
    return TableSample(
        TableName.IRQ_STUBS,
        scene.image(),
        {},
        [(TABLE_VA + 8 * i, 8) for i in range(5)],
        [
            TableDamage("entry 4 is not a push", jump_va, b"\x55"),
            TableDamage("entry 2 pushes a vector", TABLE_VA + 17, b"\x11"),
        ],
    )


def stubs_in_packs() -> TableSample:
    """A pack of seven, and one of two that ends with its jump."""
    scene = TextScene()
    full = b"".join(bytes((0x6A, 0x5F - i, 0xEB, 2 + 4 * (6 - i) - 4)) for i in range(6))
    full += bytes((0x6A, 0x59))
    full = (full + b"\xe9" + relative(TABLE_VA + len(full) + 5, TEXT_VA)).ljust(32, b"\x90")
    last = bytes((0x6A, 0x58, 0xEB, 4, 0x6A, 0x57, 0xEB, 0))
    last += b"\xe9" + relative(TABLE_VA + 32 + len(last) + 5, TEXT_VA)
    code = full + last
    scene.builder.section(".init.text", TABLE_VA, code.ljust(0x60, b"\xcc"), TEXT)
    scene.builder.symbol("irq_entries_start", TABLE_VA, size=len(code))
    return TableSample(
        TableName.IRQ_STUBS,
        scene.image(),
        {},
        [(TABLE_VA, 31), (TABLE_VA + 32, len(last))],
        [
            TableDamage("entry 1 pushes a vector", TABLE_VA + 33, b"\x11"),
            TableDamage("entry 0 is not a row", TABLE_VA + 7, b"\x00"),
            TableDamage("entry 1 jumps out", TABLE_VA + 32 + 9, word(0x01000000)),
        ],
    )


def stubs_of_any_length() -> TableSample:
    """A short push and a long one, aligned to words; the last stub has no filling."""
    scene = TextScene()
    code, stubs = b"", []
    for push in ("6aff", "6afe", "687fffffff", "687effffff"):
        code = code.ljust(-(-len(code) // 4) * 4, b"\x90")
        stubs.append(TABLE_VA + len(code))
        code += bytes.fromhex(push)
        code += b"\xe9" + relative(TABLE_VA + len(code) + 5, TEXT_VA)
    scene.builder.section(".init.text", TABLE_VA, code.ljust(0x40, b"\xcc"), TEXT)
    scene.builder.symbol("irq_entries_start", TABLE_VA, size=len(code))
    names_va = TABLE_VA + 0x1000
    scene.builder.section(".data.early", names_va, b"".join(map(word, stubs)), DATA)
    scene.builder.symbol("interrupt", names_va, size=16, kind=STT_OBJECT)
    return TableSample(
        TableName.IRQ_STUBS,
        scene.image(),
        {},
        [(stubs[0], 8), (stubs[1], 8), (stubs[2], 12), (stubs[3], 10)],
        [
            TableDamage("does not name stubs", TABLE_VA + 3, b"\x11"),
            TableDamage("does not name stubs", TABLE_VA + 16, b"\x55"),
            TableDamage("does not name stubs", names_va, word(TABLE_VA + 1)),
        ],
    )


def early_stubs_with_nops() -> TableSample:
    scene = TextScene()
    code = b""
    for i in range(3):
        first = bytes.fromhex("89f6") if i == 1 else b"\x6a\0"
        code += first + bytes((0x6A, i)) + b"\xe9" + relative(TABLE_VA + 9 * i + 9, TEXT_VA)
    scene.builder.section(".init.text", TABLE_VA, code, TEXT)
    scene.builder.symbol("early_idt_handlers", TABLE_VA, size=len(code))
    return TableSample(
        TableName.EARLY_STUBS,
        scene.image(),
        {},
        [(TABLE_VA + 9 * i, 9) for i in range(3)],
        [TableDamage("entry 1 is not a push", TABLE_VA + 9, b"\x55")],
    )


SAMPLES: tuple[Callable[[], TableSample], ...] = (
    lambda: _exports(TableName.KSYMTAB, 2, relative),
    lambda: _exports(TableName.KSYMTAB_GPL, 2, absolute),
    lambda: _exports(TableName.KSYMTAB_UNUSED, 2, absolute),
    lambda: _exports(TableName.KSYMTAB_UNUSED_GPL, 2, absolute),
    lambda: _exports(TableName.KSYMTAB_GPL_FUTURE, 2, absolute),
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
    stubs_of_any_length,
    early_stubs_with_nops,
)
