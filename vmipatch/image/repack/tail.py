# SPDX-License-Identifier: MIT
"""What does the tail of the boot code address from, and where do its code and its tables end?

    relocated: (assembly) | C code | .rodata .data .got | .bss (not in the file)

C code is position-independent. It fetches the program counter, adds the distance to the global
offset table (GOT), and addresses everything from there. GNU ld puts that table somewhere in the
tail or at its end, ld.lld at 0, where startup_32 is.
Source: arch/x86/boot/compressed (head_32.S, vmlinux.lds.S) of Linux 2.6.26 to 7.2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from vmipatch.image.repack.head import WORD_LEN, BootHead, unclassified
from vmipatch.isa.decode import Flow, InstructionStream, decode
from vmipatch.isa.fields import FieldKind, InstructionField, wide_fields_among_data

_CLEAR_BSS = re.compile(rb"\x31\xc0\x8d\xbb(.{4})\x8d\x8b(.{4})\x29\xf9", re.DOTALL)
"""xor %eax, %eax; lea _bss(%ebx), %edi; lea _ebss(%ebx), %ecx; sub %edi, %ecx."""
_MOVE_GOT = re.compile(
    rb"\x8d\x93(.{4})\x8d\x8b(.{4})\x39\xca\x73\x07\x01\x1a\x83\xc2\x04\xeb", re.DOTALL
)
"""lea _got(%ebx), %edx; lea _egot(%ebx), %ecx; 1: cmp %ecx, %edx; jae 2f; add %ebx, (%edx)..."""
_THUNK = re.compile(rb"\x8b[\x04\x0c\x14\x1c\x2c\x34\x3c]\x24\xc3")
"""mov (%esp), reg; ret: a function that fetches the program counter."""
_CALL_LEN = 5
_FAR_FROM_CALL = 64
"""The addition follows the call; compilers put little between."""
_MAX_ASSEMBLY_LEN = 256
_LEAST_TABLE = 4
_WORD = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class Tail:
    """The tail as linked, in offsets from startup_32."""

    assembly: tuple[tuple[int, int], ...]
    """Half-open ranges of code that addresses as the head does: the first function, and those that
    subtract the program counter from itself."""
    text_end_off: int
    """The end of the last function that direct branches target."""
    got_off: int
    """The address that C code counts from."""
    bss_off: int
    ebss_off: int
    fetches: frozenset[int] = field(repr=False)
    """Return addresses of calls that fetch the program counter."""
    moved_words: tuple[int, int]
    """The range of words that the code itself adds its address to; empty if there are none."""
    stream: InstructionStream = field(repr=False)

    @classmethod
    def parse(cls, code: bytes, head: BootHead, name: str) -> Tail:
        """Understand the tail of `code`. Raises UnclassifiedReference if it is built otherwise."""
        stream = decode(code[head.text_off :], head.text_off)
        entry = code[head.text_off : head.text_off + _MAX_ASSEMBLY_LEN]
        cleared = _CLEAR_BSS.match(entry)
        if cleared is None:
            raise unclassified("its tail does not begin by clearing .bss", name, head.text_off)
        bss_off, ebss_off = (head.base_off + _signed(word) for word in cleared.groups())
        moved = _MOVE_GOT.search(entry)
        fetches = frozenset(_fetches(stream, code))
        sums = list(_sums(code, head, fetches))
        starts = [va for va, base, is_subtracted in sums if is_subtracted and base == 0]
        ends = [_end_of_function(stream, va, name) for va in (head.text_off, *starts)]
        return cls(
            tuple(zip((head.text_off, *starts), ends, strict=True)),
            _end_of_text(stream, name),
            _got(sums, starts, head, name),
            bss_off,
            ebss_off,
            fetches,
            (0, 0) if moved is None else (_signed(moved[1]), _signed(moved[2])),
            stream,
        )

    def is_assembly(self, off: int) -> bool:
        """Whether the code at `off` addresses as the head does."""
        return any(start <= off < end for start, end in self.assembly)

    def fetch_of(self, field: InstructionField) -> int | None:
        """The program counter to which `field` adds the distance to the GOT, if it does."""
        fetched = self.got_off - field.value
        near = 0 <= field.instruction_va - fetched < _FAR_FROM_CALL
        is_sum = field.kind is FieldKind.IMMEDIATE and field.may_point
        return fetched if is_sum and near and fetched in self.fetches else None


def jump_tables(
    code: bytes, tail: Tail, fields: list[InstructionField], name: str
) -> frozenset[int]:
    """Offsets of the words of jump tables that hold distances from startup_32.

    `fields` are those of the code, which addresses from there. Each word of a table is the start
    of an instruction, and compilers make no table for fewer than four. Raises UnclassifiedReference
    if there is such a table that no code names.
    """
    found: set[int] = set()
    for each in fields:
        off = each.value
        while tail.text_end_off <= off <= len(code) - WORD_LEN and _is_code(code, off, tail):
            found.add(off)
            off += WORD_LEN
    run = 0
    for off in range(-(-tail.text_end_off // WORD_LEN) * WORD_LEN, len(code) - 3, WORD_LEN):
        run = run + 1 if off not in found and _is_code(code, off, tail) else 0
        if run >= _LEAST_TABLE:
            raise unclassified("no code names a table of places in its code", name, off)
    return frozenset(found)


def _is_code(code: bytes, off: int, tail: Tail) -> bool:
    (value,) = _WORD.unpack_from(code, off)
    return tail.stream.va <= value < tail.text_end_off and tail.stream.index_of(value) >= 0


def _signed(word: bytes) -> int:
    return int.from_bytes(word, "little", signed=True)


def _fetches(stream: InstructionStream, code: bytes) -> Iterator[int]:
    targets = stream.branch_targets.tolist()
    for index, target in zip(stream.branches.tolist(), targets, strict=True):
        if stream.flows[index] == Flow.CALL:
            following = int(stream.starts[index]) + _CALL_LEN
            if target == following or _THUNK.match(code, target):
                yield following


def _sums(code: bytes, head: BootHead, fetches: frozenset[int]) -> Iterator[tuple[int, int, bool]]:
    """Sums and differences computed right after a fetch of the program counter.

    Its place, what is computed, and whether by a subtraction.
    """
    for each in wide_fields_among_data(code[head.text_off :], head.text_off):
        if each.kind is FieldKind.IMMEDIATE and each.may_point:
            for fetched in (each.instruction_va, each.instruction_va - 1):
                if fetched in fetches:
                    value = -each.value if each.is_subtracted else each.value
                    yield each.instruction_va, fetched + value, each.is_subtracted


def _got(sums: list[tuple[int, int, bool]], assembly: list[int], head: BootHead, name: str) -> int:
    """Where the GOT is by what C code computes: all of it must agree."""
    found = {base for va, base, _ in sums if va not in assembly}
    if len(found) != 1:
        shown = ", ".join(f"{off:#x}" for off in sorted(found)) or "none"
        raise unclassified(f"the global offset table is not found: {shown}", name, head.text_off)
    return found.pop()


def _end_of_function(stream: InstructionStream, va: int, name: str) -> int:
    """The end of the function of assembly in which `va` is."""
    furthest = va
    targets = dict(zip(stream.branches.tolist(), stream.branch_targets.tolist(), strict=True))
    for index in range(max(stream.index_of(va), 0), len(stream)):
        start, flow = int(stream.starts[index]), stream.flows[index]
        if start - va > _MAX_ASSEMBLY_LEN:
            break
        if flow in (Flow.JUMP, Flow.CONDITION):
            furthest = max(furthest, targets[index])
        if flow == Flow.STOP and start >= furthest:
            return start + int(stream.lens[index])
    raise unclassified("the end of a function of assembly was not found", name, va)


def _end_of_text(stream: InstructionStream, name: str) -> int:
    """The end of the first function beyond which no earlier branch reaches.

    C code calls functions that stand later, those that fetch the program counter last. Old
    compilers put jump tables between: bytes that are no instruction count for nothing.
    """
    flows, starts, lens = stream.flows.tolist(), stream.starts.tolist(), stream.lens.tolist()
    targets = dict(zip(stream.branches.tolist(), stream.branch_targets.tolist(), strict=True))
    furthest = stream.va
    for index in range(len(stream)):
        target = targets.get(index, 0)
        if target < stream.end_va:
            furthest = max(furthest, target)
        if flows[index] in (Flow.STOP, Flow.JUMP) and starts[index] >= furthest:
            return int(starts[index] + lens[index])
    raise unclassified("the end of the .text section was not found", name, stream.va)
