# SPDX-License-Identifier: MIT
"""What does the head of the boot code do? The forms that startup_32 of i386 has had.

Whatever the version, the head finds out where it runs, computes a place after the kernel's, copies
itself there up to a label and jumps to the tail of the copy. It differs in three respects:

    base    what registers hold that point to parts of the boot code: the address of startup_32
            (Linux 2.6.20 to 5.7; ld.lld, which puts the global offset table there), or that of the
            global offset table (5.8 on, GNU ld)
    copied  up to _bss (2.6.30 on), or up to _end, _bss included
    room    how the place is computed, see `Room`

EFI stubs add entry points before and after this code; their references are of the same kinds.
Source: arch/x86/boot/compressed/head_32.S of Linux 2.6.26 to 7.2.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from vmipatch.errors import UnclassifiedReference
from vmipatch.isa.decode import Flow, InstructionStream, Shape, decode

_Found = TypeVar("_Found")
MAX_TEXT_ALIGN = 64
WORD_LEN = 4
_CALL_LEN = 5
_GET_BASE = re.compile(
    rb"\xe8\0\0\0\0[\x58-\x5f](\x81[\xc0-\xc7\xe8-\xef]|[\x05\x2d])(.{4})", re.DOTALL
)
"""call 1f; 1: pop reg; add $(base - 1b), reg or sub $(1b - base), reg."""
_SUBTRACTIONS = (b"\x2d", *(bytes([0x81, modrm]) for modrm in range(0xE8, 0xF0)))
_COPY = re.compile(rb"\xb9(.{4})(?:\xc1\xe9\x02\xfd\xf3\xa5|\xfd\xf3\xa4)", re.DOTALL)
"""mov $length, %ecx; [shr $2, %ecx;] std; rep movsl or movsb."""
_TO_TAIL = re.compile(rb"\x8d[\x80-\x83\x85-\x87](.{4})\xff[\xe0-\xe7]", re.DOTALL)
"""lea relocated(reg), reg; jmp *reg."""


class Room(enum.Enum):
    """How the head computes the place for its copy."""

    INIT_SIZE = "init_size"
    """The copy's _end is where the memory ends that the kernel asks for (Linux 4.7 on)."""
    DISTANCE = "z_extract_offset"
    """A constant after the start of the kernel (2.6.30 to 4.6)."""
    LENGTHS = "input_len, output_len"
    """From two words, one before the payload and its last one (up to 2.6.29)."""


_ROOMS = (
    (Room.INIT_SIZE, rb"\x03\x9e\x60\x02\0\0\x81\xeb(.{4})"),
    (Room.INIT_SIZE, rb"\x8b\x86\x60\x02\0\0\x2d(.{4})\x01\xc3"),
    (Room.DISTANCE, rb"(?:\xbb.{4}|\x21\xc3)\x81\xc3(.{4})"),
    (Room.LENGTHS, rb"\x2b\x9d(.{4})\x8b\x85.{4}\x01\xc3\xc1\xe8\x0c\x01\xc3"),
)
"""add init_size(%esi), %ebx; sub $_end, %ebx
mov init_size(%esi), %eax; sub $_end, %eax; add %eax, %ebx
mov $start, %ebx (up to 3.12 and %eax, %ebx, if relocatable); add $z_extract_offset, %ebx
sub input_len(%ebp), %ebx; mov output_len(%ebp), %eax; add %eax, %ebx; shr $12, %eax; add..."""


@dataclass(frozen=True, slots=True)
class BootHead:
    """The head's facts about the rest, as offsets from startup_32."""

    base_off: int
    """The place that its registers point to."""
    code_len: int
    """Its code ends here: before the word input_len, if there is one."""
    copied_len: int
    copied_word_off: int
    """The word that says so."""
    room: Room
    room_word_off: int
    """The word that tells _end, the distance, or the place of input_len."""
    room_value: int
    text_off: int
    """The tail, to which it jumps."""
    entries: frozenset[int]
    """Where its functions begin: startup_32, and entry points of an EFI stub."""

    @classmethod
    def parse(cls, code: bytes, payload_off: int, payload_end_off: int, name: str) -> BootHead:
        """Understand the boot code `code`, whose payload lies at these offsets.

        Raises UnclassifiedReference if it is built in another way.
        """
        head = code[:payload_off]
        base_off = _base(head, name)
        (copied,) = _once(_COPY.finditer(head), "to copy itself", name)
        rooms = (
            (r, each) for r, pattern in _ROOMS for each in re.finditer(pattern, head, re.DOTALL)
        )
        ((room, found),) = _once(rooms, "to make room for the kernel", name)
        jumps = (
            each
            for each in _TO_TAIL.finditer(head)
            if 0 <= base_off + _signed(each[1]) - payload_end_off < MAX_TEXT_ALIGN
        )
        (out,) = _once(jumps, "to jump after the payload", name)
        value, code_len = _signed(found[1]), payload_off
        if room is Room.LENGTHS:
            code_len -= WORD_LEN
            length = payload_end_off - payload_off
            if base_off or value != code_len or _signed(head[value:]) != length:
                raise unclassified("the word before the payload is not its length", name, code_len)
        return cls(
            base_off, code_len, _signed(copied[1]), copied.start(1), room, found.start(1), value,
            base_off + _signed(out[1]), _entries(decode(head[:code_len], 0), name),
        )  # fmt: skip


def unclassified(message: str, name: str, off: int) -> UnclassifiedReference:
    """The error for boot code that is not understood."""
    return UnclassifiedReference(message, file=name, place=f"boot code + {off:#x}")


def _base(head: bytes, name: str) -> int:
    """EFI entry points find it out for themselves: all must agree."""
    found = set()
    for match in _GET_BASE.finditer(head):
        value = _signed(match[2])
        pop_off = match.start() + _CALL_LEN
        found.add(pop_off - value if match[1] in _SUBTRACTIONS else pop_off + value)
    if len(found) != 1:
        shown = ", ".join(f"{off:#x}" for off in sorted(found)) or "none"
        raise unclassified(f"what the boot code's head addresses from is unclear: {shown}", name, 0)
    return found.pop()


def _entries(stream: InstructionStream, name: str) -> frozenset[int]:
    """The first instruction, and those after the ends of functions and their padding."""
    if len(stream.undecodable):
        off = int(stream.starts[stream.undecodable[0]])
        raise unclassified("its head is not code from end to end", name, off)
    found, begins = set(), True
    for start, flow, shape in zip(
        stream.starts.tolist(), stream.flows.tolist(), stream.shapes.tolist(), strict=True
    ):
        if begins and shape == Shape.CODE:
            found.add(start)
        begins = flow in (Flow.STOP, Flow.JUMP) or (begins and shape != Shape.CODE)
    return frozenset(found)


def _once(found: Iterable[_Found], purpose: str, name: str) -> list[_Found]:
    """The matches, if there is exactly one."""
    matches = list(found)
    if len(matches) != 1:
        raise unclassified(f"the boot code has {len(matches)} instructions {purpose}", name, 0)
    return matches


def _signed(word: bytes) -> int:
    return int.from_bytes(word[:WORD_LEN], "little", signed=True)
