# SPDX-License-Identifier: MIT
"""Sample images of the tables that name functions, symbols, data and entry stubs."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.support.elfbuilder import TEXT
from tests.support.kallsyms import Style, parts
from tests.tables.scene import (
    DATA_VA,
    OUTSIDE,
    RODATA_VA,
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
from vmipatch.image.symbols import STT_FUNC, STT_OBJECT
from vmipatch.tables.table import TableName

FUNCTIONS = [TEXT_VA + 0x40, TEXT_VA + 0x10, TEXT_VA + 0x40]


def kallsyms() -> TableSample:
    scene = TextScene()
    symbols = [TEXT_VA, TEXT_VA, TEXT_VA + 0x10, DATA_VA + 0x100]
    names = bytes.fromhex("0211 22 01 33 8101") + bytes(129) + bytes.fromhex("0144")
    data = b"".join(word(va - TEXT_VA) for va in symbols)
    parts = {
        "kallsyms_offsets": data,
        "kallsyms_relative_base": word(TEXT_VA),
        "kallsyms_num_syms": word(len(symbols)),
        "kallsyms_names": names.ljust(-(-len(names) // 4) * 4, b"\0"),
        "kallsyms_markers": word(0),
    }
    at_va = {}
    blob = b""
    for name, part in parts.items():
        at_va[name] = TABLE_VA + len(blob)
        scene.builder.symbol(name, at_va[name])
        blob += part
    scene.table(".rodata", blob)
    return TableSample(
        TableName.KALLSYMS,
        scene.image(),
        pointing(TABLE_VA, 4, symbols),
        damages=[
            TableDamage("entry 3 has its symbol", TABLE_VA + 12, word(0x10000)),
            TableDamage("entry 2 lies below", TABLE_VA + 4, word(0x11)),
            TableDamage("there are not 4 names", at_va["kallsyms_names"], b"\x7f"),
            TableDamage("there are not 3 names", at_va["kallsyms_num_syms"], word(3)),
            TableDamage("kallsyms_markers do not", at_va["kallsyms_markers"], word(1)),
        ],
    )


def kallsyms_by_distance() -> TableSample:
    """As 7.2 has them: after the names and tokens, and without a base."""
    scene = TextScene()
    symbols = [(TEXT_VA, "Ta"), (TEXT_VA, "tb"), (TEXT_VA + 0x10, "Tc"), (DATA_VA, "Dd")]
    stored = parts(symbols, Style.DISTANCES, TABLE_VA)
    scene.table(".rodata", b"".join(data for _, _, data in stored))
    at_va = {name: va for name, va, _ in stored}
    for name, va in at_va.items():
        scene.builder.symbol(name, va)
    offsets_va = at_va["kallsyms_offsets"]
    return TableSample(
        TableName.KALLSYMS,
        scene.image(),
        pointing(offsets_va, 4, [va for va, _ in symbols]),
        damages=[
            TableDamage("entry 3 has its symbol", offsets_va + 12, word(0x10000000)),
            TableDamage("entry 2 lies below", offsets_va + 4, word(0)),
            TableDamage("kallsyms_markers do not", at_va["kallsyms_markers"], word(1)),
        ],
    )


def kallsyms_base() -> TableSample:
    scene = TextScene()
    scene.table(".rodata", word(TEXT_VA))
    scene.builder.symbol("kallsyms_relative_base", TABLE_VA)
    return TableSample(
        TableName.KALLSYMS_BASE,
        scene.image(),
        {TABLE_VA: TEXT_VA},
        damages=[TableDamage("entry 0 has its base", TABLE_VA, word(OUTSIDE))],
    )


def _pointers(
    name: TableName, start: str, stop: str, targets: list[int], *, from_word: bool
) -> Callable[[], TableSample]:
    """A table of single words, absolute or relative to themselves."""

    def sample() -> TableSample:
        scene = TextScene()
        data = relatives(*targets) if from_word else b"".join(word(va) for va in targets)
        scene.table(".init.data", data, start, stop)
        wrong = [
            TableDamage("entry 0", TABLE_VA, word(OUTSIDE)),
            TableDamage("entry 2", TABLE_VA + 8, word(OUTSIDE)),
        ]
        return TableSample(name, scene.image(), pointing(TABLE_VA, 4, targets), damages=wrong)

    return sample


def ksymtab(name: TableName) -> TableSample:
    scene = TextScene()
    scene.builder.section("__ksymtab_strings", RODATA_VA, b"\0alpha\0beta\0x\0")
    rows = [(DATA_VA + 4, RODATA_VA + 1, RODATA_VA), (TEXT_VA + 0x10, RODATA_VA + 7, None)]
    data = b""
    targets = {}
    for i, row in enumerate(rows):
        for column, target in enumerate(row):
            va = TABLE_VA + 12 * i + 4 * column
            data += word(0) if target is None else relative(va, target)
            if target is not None:
                targets[va] = target
    scene.table(name.value, data, f"__start_{name.value}", f"__stop_{name.value}")
    return TableSample(
        name,
        scene.image(),
        targets,
        damages=[
            TableDamage("entry 1 has its value", TABLE_VA + 12, word(0x10000000)),
            TableDamage("entry 1 has its namespace", TABLE_VA + 20, word(0x10000000)),
            TableDamage("entry 0 has its name", TABLE_VA + 4, word(0x10000000)),
            TableDamage(
                "entry 0 has an empty name", TABLE_VA + 4, relative(TABLE_VA + 4, RODATA_VA)
            ),
            TableDamage("entry 1 has a name below", RODATA_VA + 1, b"zeta"),
        ],
    )


def pci_fixups() -> TableSample:
    scene = TextScene()
    data = b""
    for i, function in enumerate(FUNCTIONS):
        data += struct.pack("<HHII", 0x8086, i, 0, 0)
        data += relative(TABLE_VA + 16 * i + 12, function)
    scene.table(".pci_fixup", data)
    return TableSample(
        TableName.PCI_FIXUPS,
        scene.image(),
        pointing(TABLE_VA + 12, 16, FUNCTIONS),
        damages=[TableDamage("entry 1 has its hook", TABLE_VA + 28, word(0))],
    )


def syscalls() -> TableSample:
    scene = TextScene()
    scene.table(".rodata", b"".join(word(va) for va in FUNCTIONS))
    scene.builder.symbol("sys_call_table", TABLE_VA, size=12, kind=STT_OBJECT)
    return TableSample(
        TableName.SYSCALLS,
        scene.image(),
        pointing(TABLE_VA, 4, FUNCTIONS),
        damages=[TableDamage("entry 2 has its function", TABLE_VA + 8, word(DATA_VA))],
    )


def pvh_note() -> TableSample:
    scene = TextScene()
    build_id = struct.pack("<III", 4, 6, 3) + b"GNU\0" + b"abcdef\0\0"
    entry = struct.pack("<III", 4, 4, 18) + b"Xen\0" + word(TEXT_VA + 0x20 - 0xC0000000)
    scene.table(".notes", build_id + entry)
    word_va = TABLE_VA + len(build_id) + 16
    return TableSample(
        TableName.PVH_NOTE,
        scene.image(),
        {word_va: TEXT_VA + 0x20},
        damages=[
            TableDamage("entry 0 has its entry", word_va, word(OUTSIDE)),
            TableDamage("runs over the end", TABLE_VA + 4, word(0x100)),
            TableDamage("no multiple", word_va - 12, word(2)),
        ],
    )


def _stubs(name: TableName, stride: int, first_vector: int) -> Callable[[], TableSample]:
    def sample() -> TableSample:
        scene = TextScene()
        code = b""
        for i in range(3):
            push = bytes((0x6A, first_vector + i))
            push = b"\x6a\0" + push if stride == 9 and i != 1 else push
            jump_end = TABLE_VA + stride * i + len(push) + 5
            stub = push + b"\xe9" + relative(jump_end, TEXT_VA)
            code += stub.ljust(stride, b"\xcc")
        scene.builder.section(".init.text", TABLE_VA, code, TEXT)
        scene.builder.symbol(name.value, TABLE_VA, size=len(code), kind=STT_FUNC)
        jump_va = TABLE_VA + stride + 2
        return TableSample(
            name,
            scene.image(),
            {},
            [(TABLE_VA + stride * i, stride) for i in range(3)],
            [
                TableDamage("entry 1 is not a push", TABLE_VA + stride, b"\x68"),
                TableDamage("entry 1 is not a push", TABLE_VA + 2 * stride - 1, b"\x55"),
                TableDamage("entry 1 pushes a vector", TABLE_VA + stride + 1, b"\x77"),
                TableDamage("entry 1 jumps out", jump_va + 1, word(0x01000000)),
            ],
        )

    return sample


SAMPLES = (
    kallsyms,
    kallsyms_by_distance,
    kallsyms_base,
    pci_fixups,
    syscalls,
    pvh_note,
    lambda: ksymtab(TableName.KSYMTAB),
    lambda: ksymtab(TableName.KSYMTAB_GPL),
    _pointers(TableName.INITCALLS, "__initcall_start", "__initcall_end", FUNCTIONS, from_word=True),
    _pointers(
        TableName.CON_INITCALLS,
        "__con_initcall_start",
        "__con_initcall_end",
        FUNCTIONS,
        from_word=True,
    ),
    _pointers(
        TableName.KPROBE_BLACKLIST,
        "__start_kprobe_blacklist",
        "__stop_kprobe_blacklist",
        FUNCTIONS,
        from_word=False,
    ),
    _pointers(
        TableName.FTRACE_EVENTS,
        "__start_ftrace_events",
        "__stop_ftrace_events",
        [DATA_VA, DATA_VA + 8, DATA_VA],
        from_word=False,
    ),
    _pointers(
        TableName.FTRACE_EVAL_MAPS,
        "__start_ftrace_eval_maps",
        "__stop_ftrace_eval_maps",
        [DATA_VA, DATA_VA + 8, DATA_VA],
        from_word=False,
    ),
    _pointers(
        TableName.TRACEPOINTS,
        "__start___tracepoints_ptrs",
        "__stop___tracepoints_ptrs",
        [DATA_VA, DATA_VA + 8, DATA_VA],
        from_word=True,
    ),
    _stubs(TableName.IRQ_STUBS, 8, 0x20),
    _stubs(TableName.SPURIOUS_STUBS, 8, 0xEC),
    _stubs(TableName.EARLY_STUBS, 9, 0),
)
