# SPDX-License-Identifier: MIT
"""How do tests of the static proof get a kernel of a few functions, and its rewritten twin?

The twin is the rewriter's. What the proof makes of it when it is wrong is what the tests ask, so
they damage it.
"""

from __future__ import annotations

import struct
from functools import cache

from tests.support.elfbuilder import DATA, RODATA, STB_LOCAL, TEXT, BuiltSection, ElfBuilder
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, R_386_PC32
from vmipatch.image.symbols import STT_FUNC, STT_OBJECT, STT_SECTION
from vmipatch.image.types import SectionKind
from vmipatch.rewrite.rewrite import RewriteOptions, rewrite

TEXT_VA, RODATA_VA, DATA_VA, INIT_VA = 0xC1000000, 0xC1008000, 0xC1009000, 0xC100A000
ALT_VA, REPLACEMENT_VA = 0xC100B000, 0xC100C000
PAGE_OFFSET = 0xC0000000

FUNCTIONS = (
    # Name and code; {function} stands for the displacement that leads there, with a relocation.
    ("startup_32", "b8 00 00 00 80 0f 22 c0 e9 {start_kernel} cc cc cc"),
    ("start_kernel", "fa fb f4 e8 {reads_clock} 74 03 9c 58 9d c3 cc 90 90 90 90 90 90 90 90"),
    ("reads_clock", "0f 31 0f 01 38 eb 01 c3 c3 cc 8d b4 26 00 00 00 00 8d 76 00"),
    ("loads_twice", "8b 00 0f 1f 44 00 00 8b 40 04 0f 0b c3 cc 90 90 90 90 90 90 90 90 90 90"),
    ("runs_on", "9c 5a 31 c0 90 90 90"),
    ("runs_into", "fb 0f 20 c0 cf cc" + " 90" * 10),
    ("early", "74 01 cf b8 00 00 00 80 0f 22 c0 c3 cc"),
)
INIT_FUNCTIONS = (("init_once", "fa 0f 30 e8 {reads_clock} c3" + " cc" * 16),)


def _assembled(
    builder: ElfBuilder, base_va: int, functions: tuple[tuple[str, str], ...], known: dict[str, int]
) -> bytes:
    """Lay `functions` out from `base_va` on; returns the bytes, and adds addresses to `known`."""
    sizes = {name: len(_words(code)) + 3 * code.count("{") for name, code in functions}
    at = base_va
    for name, _ in functions:
        known[name] = at
        builder.symbol(name, at, size=sizes[name], kind=STT_FUNC)
        at += sizes[name]
    out = bytearray()
    for _, code in functions:
        for word in _words(code):
            if word.startswith("{"):
                place = base_va + len(out)
                builder.relocation(place, R_386_PC32, word[1:-1])
                out += struct.pack("<i", known[word[1:-1]] - place - 4)
            else:
                out += bytes.fromhex(word)
    return bytes(out)


def _words(code: str) -> list[str]:
    return code.split()


def build_original() -> ElfImage:
    """A kernel with sites, branches, pointers, an exception table and a little of everything."""
    builder = ElfBuilder(entry=TEXT_VA - PAGE_OFFSET)
    known: dict[str, int] = {}
    code = _assembled(builder, TEXT_VA, FUNCTIONS, known)
    # Room for the runtime comes from padding.
    code += b"\x90" * (0x6000 - len(code))
    text = builder.section(".text", TEXT_VA, code, TEXT, align=4096)
    builder.symbol("_text", TEXT_VA)
    builder.symbol("_etext", text.end_va)
    builder.symbol(".text", TEXT_VA, kind=STT_SECTION, binding=STB_LOCAL)
    _add_read_only(builder, known)
    _add_data(builder, known)
    builder.section(
        ".init.text", INIT_VA, _assembled(builder, INIT_VA, INIT_FUNCTIONS, known), TEXT
    )
    builder.section(".comment", 0, b"small\0", flags=RODATA & 0, align=1)
    return builder.image("small")


def _add_read_only(builder: ElfBuilder, known: dict[str, int]) -> None:
    """An exception table, one alternative, and a note with a build-id."""
    read_va, fixup_va = known["loads_twice"], known["runs_into"]
    table_va = RODATA_VA + 0x100
    rows = [(read_va, fixup_va, 1), (read_va + 7, fixup_va + 1, 2)]
    entries = b"".join(
        struct.pack("<iiI", insn - va, fixup - va - 4, kind)
        for va, (insn, fixup, kind) in zip((table_va, table_va + 12), rows, strict=True)
    )
    builder.section(".rodata", RODATA_VA, b"constant".ljust(0x100, b"\0"), RODATA, align=4096)
    builder.section("__ex_table", table_va, entries, RODATA)
    alternative = struct.pack(
        "<iiHBB", known["runs_on"] + 2 - ALT_VA, REPLACEMENT_VA - ALT_VA - 4, 1, 2, 2
    )
    table = builder.section(".altinstructions", ALT_VA, alternative, RODATA)
    builder.bounds("__alt_instructions", "__alt_instructions_end", table)
    builder.section(".altinstr_replacement", REPLACEMENT_VA, b"\x89\xc0", TEXT, align=1)
    note = struct.pack("<III4s", 4, 20, 3, b"GNU\0") + bytes(range(20))
    notes = BuiltSection(".notes", table_va + 24, note, RODATA, SectionKind.NOTE, len(note), 4)
    builder.sections.append(notes)


def _add_data(builder: ElfBuilder, known: dict[str, int]) -> None:
    """Pointers: to a function, into one, before one, to a physical address, to data; and an IDT."""
    words = (
        ("runs_on", known["runs_on"]),
        ("runs_on", known["runs_on"] + 2),
        ("runs_on", known["runs_on"] - 0x100),
        ("early", known["early"] - PAGE_OFFSET),
        ("pointers", DATA_VA),
    )
    for index, (symbol, _) in enumerate(words):
        builder.relocation(DATA_VA + 4 * index, R_386_32, symbol)
    data = b"".join(struct.pack("<I", value) for _, value in words) + b"payload!"
    idt_va = DATA_VA + len(data)
    builder.relocation(idt_va, R_386_32, "loads_twice")
    data += struct.pack("<I", known["loads_twice"])
    builder.section(".data", DATA_VA, data, DATA, align=4096)
    builder.symbol("pointers", DATA_VA, size=20, kind=STT_OBJECT)
    builder.symbol("def_idts", idt_va, size=4, kind=STT_OBJECT)


@cache
def small_pair(padding: Padding = Padding.PREFIX) -> tuple[ElfImage, ElfImage]:
    """The small kernel and its rewritten twin."""
    original = build_original()
    return original, ElfImage.parse(rewrite(original, RewriteOptions(padding)).data, "twin")
