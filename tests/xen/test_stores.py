# SPDX-License-Identifier: MIT
"""Does the ROM read a store as another decoder does? Its compiled function against capstone."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

import capstone
import pytest
from capstone.x86_const import X86_OP_IMM, X86_OP_MEM, X86_OP_REG

from tests.xen.rom_model import CALLER_VA, STACK_VA, RomModel

NONE, REGISTER, IMMEDIATE, EXCHANGE, STRING, MOVE, COMPARE, AND, OR = range(9)
NO_REGISTER = 0xFF
"""enum store_kind of rom.h."""
MNEMONICS = {
    REGISTER: {"mov"}, IMMEDIATE: {"mov"}, EXCHANGE: {"xchg"}, COMPARE: {"cmpxchg8b"},
    AND: {"and"}, OR: {"or"},
    STRING: {"stosb", "stosw", "stosd"}, MOVE: {"movsb", "movsw", "movsd"},
}  # fmt: skip
NAMES = {
    1: ("al", "cl", "dl", "bl", "ah", "ch", "dh", "bh"),
    2: ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di"),
    4: ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"),
}
OPCODES = (
    "88",
    "89",
    "86",
    "87",
    "c6",
    "c7",
    "a2",
    "a3",
    "aa",
    "ab",
    "a4",
    "a5",
    "0fc7",
    "08",
    "09",
    "20",
    "21",
    "80",
    "81",
    "83",
)
PREFIXES = b"\x26\x2e\x36\x3e\x64\x65\x66\xf0\xf2\xf3"
CODE_VA, RESULT_VA = CALLER_VA + 0x100, STACK_VA + 0x100
SAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Decoded:
    kind: int
    width: int
    reg: int
    repeated: bool
    length: int
    immediate: int


@pytest.fixture(scope="module")
def rom() -> RomModel:
    return RomModel()


def decode(rom: RomModel, code: bytes) -> Decoded:
    rom.uc.mem_write(CODE_VA, code.ljust(32, b"\x90"))
    rom.call("decode_store", RESULT_VA, CODE_VA)
    kind, width, reg, repeated, length, immediate = struct.unpack(
        "<5B3xI", rom.uc.mem_read(RESULT_VA, 12)
    )
    return Decoded(kind, width, reg, bool(repeated), length, immediate)


def check(mine: Decoded, theirs: capstone.CsInsn) -> None:
    words = theirs.mnemonic.split()
    assert words[-1] in MNEMONICS[mine.kind], theirs
    assert mine.length == theirs.size, theirs
    target = theirs.operands[0]
    assert target.type == X86_OP_MEM
    assert mine.width == target.size, theirs
    if mine.kind in (REGISTER, EXCHANGE) or (mine.kind in (AND, OR) and mine.reg != NO_REGISTER):
        assert theirs.operands[1].type == X86_OP_REG
        assert theirs.reg_name(theirs.operands[1].reg) == NAMES[mine.width][mine.reg], theirs
    elif mine.kind in (IMMEDIATE, AND, OR):
        assert theirs.operands[1].type == X86_OP_IMM
        mask = (1 << 8 * mine.width) - 1
        assert theirs.operands[1].imm & mask == mine.immediate & mask, theirs
    if mine.kind in (STRING, MOVE):
        assert mine.repeated == (words[0] in ("rep", "repne", "repe", "repnz")), theirs


def decoder() -> capstone.Cs:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    engine.detail = True
    return engine


def random_store(chance: random.Random) -> bytes:
    """A store, or nearly one: any prefixes, any operand."""
    prefixes = bytes(chance.choice(PREFIXES) for _ in range(chance.choice((0, 0, 1, 2, 5))))
    tail = bytes(chance.randrange(256) for _ in range(12))
    return prefixes + bytes.fromhex(chance.choice(OPCODES)) + tail


def test_what_the_rom_takes_for_a_store_is_that_store(rom: RomModel) -> None:
    chance, engine, taken = random.Random(19), decoder(), [0] * 9
    for _ in range(SAMPLES):
        code = random_store(chance)
        theirs = next(engine.disasm(code, 0), None)
        mine = decode(rom, code)
        if theirs is not None and mine.kind != NONE:
            check(mine, theirs)
            taken[mine.kind] += 1
    assert min(taken[1:]) > 10, taken


def test_any_bytes_are_taken_for_a_store_only_if_they_are_one(rom: RomModel) -> None:
    chance, engine = random.Random(20), decoder()
    for _ in range(SAMPLES):
        code = bytes(chance.randrange(256) for _ in range(15))
        theirs = next(engine.disasm(code, 0), None)
        mine = decode(rom, code)
        if theirs is not None and mine.kind != NONE:
            check(mine, theirs)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("8902", REGISTER), ("c70200000000", IMMEDIATE), ("8702", EXCHANGE), ("f3ab", STRING),
        ("f3a5", MOVE), ("f00fc70f", COMPARE), ("3e3e3e8902", REGISTER), ("a300000010", REGISTER),
        ("89c2", NONE), ("0902", OR), ("80a0ae000000f0", AND), ("1102", NONE), ("65a5", NONE),
        ("0fc7f0", NONE), ("c70a00000000", NONE), ("f3f2ab", NONE), ("f08902", NONE),
    ],
)  # fmt: skip
def test_stores_of_linux_are_known_and_what_is_none_is_not(
    rom: RomModel, code: str, kind: int
) -> None:
    assert decode(rom, bytes.fromhex(code)).kind == kind
