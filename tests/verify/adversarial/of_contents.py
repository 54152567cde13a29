# SPDX-License-Identifier: MIT
"""Changes of what the input has as well: gaps, tails, code and data."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from tests.verify.adversarial.kinds import (
    NotHere,
    Target,
    exchange,
    kind,
    other_byte,
    other_value,
    times,
)
from tests.verify.edit import ADDR, FLAGS, NOBITS, OFFSET, SHOFF_AT, SIZE, TYPE, FileEdit
from vmipatch.image.elf import ElfImage
from vmipatch.isa.decode import decode
from vmipatch.isa.forms import FORMS

WORD_LEN = 4
SIGNATURE = b"~Module signature appended~\n"


def occupied(image: ElfImage) -> list[tuple[int, int]]:
    """Ranges of the file that a header or a section says to be its own, ascending."""
    (phoff,), (shoff,) = (struct.unpack_from("<I", image.data, at) for at in (28, SHOFF_AT))
    found = [(0, 52), (phoff, phoff + 32 * len(image.segments))]
    found.append((shoff, shoff + 40 * len(image.sections)))
    return sorted(
        found + [(s.off, s.off + s.size) for s in image.sections if s.has_bytes and s.size]
    )


def gaps(image: ElfImage) -> Sequence[Target]:
    """First offset of each range that belongs to nothing, and the one after it."""
    found, end = [], 0
    for low, high in [*occupied(image), (len(image.data), len(image.data))]:
        if low > end:
            found.append((end, low))
        end = max(end, high)
    return found


@kind("gap: a byte", gaps, weight=3)
def gap_byte(edit: FileEdit, dice: random.Random, target: tuple[int, int]) -> str:
    low, high = target
    at = dice.choice((low, high - 1, dice.randrange(low, high)))
    edit.data[at] = other_byte(edit.data[at], dice)
    return f"offset {at:#x}"


@kind("gap: filled", gaps)
def gap_filled(edit: FileEdit, dice: random.Random, target: tuple[int, int]) -> str:
    low, high = target
    old, byte = bytes(edit.data[low:high]), dice.choice((0x90, 0xCC, 0xFF, 0x00))
    edit.data[low:high] = bytes((byte,)) * (high - low)
    if edit.data[low:high] == old:
        raise NotHere
    return f"[{low:#x}, {high:#x}) with {byte:#x}"


TAILS = (b"\0", bytes(16), bytes(4096), SIGNATURE, b"\x7fELF", b"more")


@kind("tail: appended", lambda _: [(i,) for i in range(len(TAILS))])
def tail_appended(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    edit.data += TAILS[target[0]]
    return f"{len(TAILS[target[0]])} bytes"


@kind("tail: cut off", lambda _: [(1,), (4,), (16,), (40,), (4096,)])
def tail_cut(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    if 2 * target[0] > len(edit.data):
        raise NotHere
    del edit.data[-target[0] :]
    return f"{target[0]} bytes"


@kind("tail: a byte", times(20))
def tail_byte(edit: FileEdit, dice: random.Random, target: Target) -> str:
    at = len(edit.data) - 1 - dice.choice((0, 1, 2, 3, dice.randrange(200)))
    edit.data[at] = other_byte(edit.data[at], dice)
    return f"offset {at:#x}"


def _code(image: ElfImage) -> Sequence[Target]:
    return [(s.name,) for s in image.executable_sections]


def _loaded(image: ElfImage) -> Sequence[Target]:
    return [(s.name,) for s in image.allocated_sections if s.has_bytes and s.size]


@kind("contents: a byte", _loaded, weight=2)
def content_byte(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    head = edit.head(*target)
    at = head[OFFSET] + dice.choice((0, head[SIZE] - 1, dice.randrange(head[SIZE])))
    edit.data[at] = other_byte(edit.data[at], dice)
    return f"offset {at - head[OFFSET]:#x} of {target[0]}"


@kind("contents: a word", _loaded)
def content_word(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    head = edit.head(*target)
    if head[SIZE] < WORD_LEN:
        raise NotHere
    at = head[OFFSET] + dice.randrange(head[SIZE] - WORD_LEN + 1)
    value = other_value(int.from_bytes(edit.data[at : at + WORD_LEN], "little"), dice)
    struct.pack_into("<I", edit.data, at, value)
    return f"offset {at - head[OFFSET]:#x} of {target[0]} is {value:#x}"


@kind("contents: words exchanged", _loaded)
def words_exchanged(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    return f"those at offset {exchange(edit, target[0], WORD_LEN, dice):#x} of {target[0]}"


SAME = {0x01: 0x03, 0x09: 0x0B, 0x21: 0x23, 0x29: 0x2B, 0x31: 0x33, 0x39: 0x3B, 0x89: 0x8B}
"""Opcodes with a twin for the other direction (Intel SDM volume 2: r/m, r and r, r/m)."""


@kind("code: the same in another encoding", _code, weight=8)
def other_encoding(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    """An instruction between registers that does what it did."""
    head, code = edit.head(*target), edit.content(*target)
    start = dice.randrange(max(len(code) - 4096, 1))
    stream = decode(code[start : start + 4096], head[ADDR] + start)
    for va, length in zip(stream.starts.tolist(), stream.lens.tolist(), strict=True):
        at = va - head[ADDR]
        modrm = code[at + 1] if at + 1 < len(code) else 0
        registers = modrm >> 3 & 7, modrm & 7
        if length == 2 and code[at] in SAME and modrm >= 0xC0 and registers[0] != registers[1]:
            swapped = 0xC0 | registers[1] << 3 | registers[0]
            edit.put(va, bytes((SAME[code[at]], swapped)))
            return f"{va:#x}"
    raise NotHere


PADS = ((b"\x90\x90", b"\x66\x90"), (b"\x89\xf6", b"\x90\x90"), (b"\x8d\x76\x00", b"\x8d\x36\x90"),
        (b"\x8d\x74\x26\x00", b"\x8d\x76\x00\x90"), (b"\xcc\xcc", b"\x90\x90"),
        (b"\x3e\x3e\x3e", b"\x3e\x3e\x2e"), (b"\x3e\x3e\x3e\x3e", b"\x8d\x74\x26\x00"))  # fmt: skip
"""Padding, and other padding of the same length."""


@kind("code: other padding", lambda _: [(i,) for i in range(len(PADS))], weight=5)
def other_padding(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    was, now = PADS[target[0]]
    head, code = edit.head(".text"), edit.content(".text")
    at = code.find(was, dice.randrange(len(code)))
    if at < 0:
        raise NotHere
    edit.put(head[ADDR] + at, now)
    return f"{was.hex()} became {now.hex()} at {head[ADDR] + at:#x}"


@kind("code: a sensitive instruction", _code, weight=3)
def sensitive(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    """One more of them, over others."""
    head = edit.head(*target)
    if head[SIZE] < 8:
        raise NotHere
    form = dice.choice([form for form in FORMS if len(form.opcode) < 3])
    edit.put(head[ADDR] + dice.randrange(head[SIZE] - 4), bytes(form.opcode))
    return f"{form.name} in {target[0]}"


@kind("bss: with bytes", lambda _: [()])
def bss_with_bytes(edit: FileEdit, dice: random.Random, target: Target) -> str:
    for head in edit.heads:
        if head[TYPE] == NOBITS and head[FLAGS] & 2 and head[SIZE]:
            head[OFFSET] = edit.append(bytes(head[SIZE]))
            head[TYPE] = 1
            return f"the section at {head[ADDR]:#x} is zeros in the file"
    raise NotHere
