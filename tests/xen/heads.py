# SPDX-License-Identifier: MIT
"""The start of a kernel, as head_32.S has it in one version or another, for a file of a few KB."""

from __future__ import annotations

import struct

from tests.support.elfbuilder import DATA, TEXT, ElfBuilder

PAGE_OFFSET = 0xC0000000
TEXT_VA = 0xC1000000
DATA_VA = 0xC1004000
"""Page directory, then level 2, boot parameters, command line, stack word and __FIXADDR_TOP."""
DIRECTORY, MIDDLE, PARAMS, LINE, STACK, TOP = (
    DATA_VA + off for off in (0, 0x1000, 0x2000, 0x3000, 0x3800, 0x3804)
)
LINE_WORDS = 512


def _word(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


def _copy(to_va: int, words: int, prefix: bytes = b"") -> bytes:
    return b"\xbf" + _word(to_va - PAGE_OFFSET) + b"\xb9" + _word(words) + prefix + b"\xf3\xa5"


def _switch(after: bytes, at: int) -> bytes:
    """Paging on at TEXT_VA + `at`, and what is at the jump's target, which is next."""
    code = b"\xb8" + _word(DIRECTORY - PAGE_OFFSET) + b"\x0f\x22\xd8"
    code += b"\xb8" + _word(0x80050033) + b"\x0f\x22\xc0"
    target = TEXT_VA + at + len(code) + 7
    return code + b"\xea" + _word(target) + b"\x10\x00" + after


def builder(
    *, lss: bool = False, pae: bool = True, pvh: bool = False, copies: int = 2,
    symbols: bool = True, exported: bool = False,
) -> ElfBuilder:  # fmt: skip
    """A kernel with such a start; nothing of it can run."""
    code = b"\x8b\x0d" + _word(STACK - PAGE_OFFSET) + b"\x8d\xa1" + _word(-PAGE_OFFSET)
    code += b"".join([_copy(PARAMS, 1024, b"\xfc"), _copy(LINE, LINE_WORDS)][:copies])
    turn = b"\x0f\xb2\x25" + _word(STACK) if lss else b"\x81\xc4" + _word(PAGE_OFFSET)
    code += _switch(turn + b"\x90" * 8, len(code))
    if pvh:
        code += _switch(b"\x90" * 16, len(code))
    kernel = ElfBuilder(entry=TEXT_VA - PAGE_OFFSET)
    kernel.section(".text", TEXT_VA, code + b"\xf4" * 32, TEXT)
    data = bytearray(0x4000)
    if pae:
        struct.pack_into("<Q", data, 24, MIDDLE - PAGE_OFFSET + 1)
    kernel.section(".data", DATA_VA, bytes(data), DATA)
    if symbols:
        kernel.symbol("__FIXADDR_TOP", TOP)
    if exported:
        names = kernel.section("__ksymtab_strings", DATA_VA + 0x5000, b"vmalloc\0__FIXADDR_TOP\0")
        rows = DATA_VA + 0x6000
        table = [_word(TEXT_VA - rows), _word(names.va - rows - 4)]
        table += [_word(TOP - rows - 8), _word(names.va + 8 - rows - 12)]
        kernel.section("__ksymtab", rows, b"".join(table))
    return kernel
