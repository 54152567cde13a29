# SPDX-License-Identifier: MIT
"""How long is each instruction, and which are silently wrong at CPL 1, as tables for assembly?

The kernel that loads a module walks its code with these (vmipatch/runtime/scan.S). The lengths are
those of Intel SDM volume 2, appendix A (opcode maps, 32-bit mode), the rest is FORMS.
"""

from __future__ import annotations

from collections import defaultdict

from vmipatch.isa.classify import PREFIXES
from vmipatch.isa.forms import FORMS, WantedModrm

MODRM, UNPRIVILEGED, BY_MODRM, PREFIX = 0x10, 0x20, 0x40, 0x80
(
    NO_IMMEDIATE, BYTE, WORD, FULL, ENTER, OFFSET, FAR, GROUP_BYTE, GROUP_FULL, MAP, MAP_BYTE,
) = range(11)  # fmt: skip
IMMEDIATES = bytes((0, 0, 1, 1, 2, 2, 4, 2, 3, 3, 4, 2, 6, 4, 1, 1, 4, 2, 0, 0, 1, 1))
"""Bytes of an immediate of each kind, with 32-bit and 16-bit operands (OFFSET: addresses)."""
ESCAPE = 0x0F

_ARITHMETIC = range(0x00, 0x40, 8)
_ONE_MODRM = (
    *(base + low for base in _ARITHMETIC for low in range(4)),
    0x62, 0x63, 0x69, 0x6B, *range(0x80, 0x90), 0xC0, 0xC1, *range(0xC4, 0xC8),
    *range(0xD0, 0xD4), *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF,
)  # fmt: skip
_ONE_IMMEDIATE = {
    BYTE: (
        *(base + 4 for base in _ARITHMETIC), 0x6A, 0x6B, *range(0x70, 0x80), 0x80, 0x82, 0x83, 0xA8,
        *range(0xB0, 0xB8), 0xC0, 0xC1, 0xC6, 0xCD, 0xD4, 0xD5, *range(0xE0, 0xE8), 0xEB,
    ),
    WORD: (0xC2, 0xCA),
    FULL: (
        *(base + 5 for base in _ARITHMETIC), 0x68, 0x69, 0x81, 0xA9, *range(0xB8, 0xC0), 0xC7,
        0xE8, 0xE9,
    ),
    ENTER: (0xC8,),
    OFFSET: range(0xA0, 0xA4),
    FAR: (0x9A, 0xEA),
    GROUP_BYTE: (0xF6,),
    GROUP_FULL: (0xF7,),
}  # fmt: skip
_TWO_BARE = (
    *range(0x04, 0x0D), 0x0E, *range(0x30, 0x38), 0x77, *range(0x80, 0x90), 0xA0, 0xA1, 0xA2, 0xA8,
    0xA9, 0xAA, *range(0xC8, 0xD0), 0xFF,
)  # fmt: skip
"""The last, ud0, is WARN() of Linux 4.12 to 4.15, which writes no ModRM byte; nothing else is."""
_TWO_IMMEDIATE = {
    BYTE: (0x0F, *range(0x70, 0x74), 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6),
    FULL: range(0x80, 0x90),
    MAP: (0x38,),
    MAP_BYTE: (0x3A,),
}


def opcode_maps() -> tuple[bytes, bytes]:
    """A byte for each opcode of the one-byte map, and of the map after 0f (see scan.S)."""
    one, two = [0] * 256, [MODRM] * 256
    for opcode in _ONE_MODRM:
        one[opcode] |= MODRM
    for opcode in _TWO_BARE:
        two[opcode] = 0
    for table, immediates in ((one, _ONE_IMMEDIATE), (two, _TWO_IMMEDIATE)):
        for kind, opcodes in immediates.items():
            for opcode in opcodes:
                table[opcode] |= kind
    for opcode in PREFIXES:
        one[opcode] = PREFIX
    for form in FORMS:
        if form.is_unprivileged:
            table = two if form.opcode[0] == ESCAPE else one
            flag = UNPRIVILEGED if form.operand is WantedModrm.NONE else BY_MODRM
            table[form.opcode[-1]] |= flag
    return bytes(one), bytes(two)


def groups() -> tuple[tuple[int, int, int], ...]:
    """Opcode (plus 256 after 0f), and which values of ModRM.reg are unprivileged.

    One bit each, for memory operands and for registers.
    """
    rows: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for form in FORMS:
        if form.is_unprivileged and form.operand is not WantedModrm.NONE:
            bits = 0xFF if form.reg is None else 1 << form.reg
            row = rows[form.opcode[-1] + (256 if form.opcode[0] == ESCAPE else 0)]
            for index, without in enumerate((WantedModrm.REGISTER, WantedModrm.MEMORY)):
                row[index] |= 0 if form.operand is without else bits
    return tuple((opcode, row[0], row[1]) for opcode, row in sorted(rows.items()))
