# SPDX-License-Identifier: MIT
"""What does each word of the boot code become when its tail moves and its kernel is another?

Head and payload stay, the tail moves by one distance. Of what code and data hold:

| word | becomes |
| --- | --- |
| a length of the kernel | that of the new one |
| way from one place to another (branch, address less base) | the way between both where they are |
| length of the copy | more by the distance |
| _end, by which the head makes room | more by the distance, in pages |
| place of the copy as a constant | computed as the build did |
| number, way inside of one part | the same |
| word of a table for a dynamic linker | the same: nothing reads it |

A word that may be a way between the parts and is not known to be one, is not guessed: Unknown.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vmipatch.isa.second_listing import Line, Wide, listing
from vmipatch.verify.static.bzimage.boot_code import (
    WORD_LEN,
    BootCode,
    Room,
    UnknownBootCode,
    fetched_by,
)
from vmipatch.verify.static.bzimage.kernel_facts import (
    KernelFacts,
    Lengths,
    new_distance,
    whole_pages,
)
from vmipatch.verify.static.bzimage.unread import unread_words

_INDEX = range(-16, 64)
"""How far from the payload C code's indices of it may start."""
_LEAST_TAIL = 1 << 16
_PAST_END = 64
_MIN_CASES = 4
"""Compilers make no jump table for fewer."""
_ADDS_TO_POINTER = "add dword ptr [eax + 0x28], esi"
_POINTER_AT = 0x28


@dataclass(frozen=True, slots=True)
class NewKernel:
    """The kernel that the boot code is to start, and the one that it started."""

    old: KernelFacts
    new: KernelFacts
    link: tuple[int, int]
    """Physical address, and from there to virtual ones."""
    distance: int
    """By how many bytes the tail moves."""


def new_words(boot: BootCode, kernel: NewKernel) -> dict[int, int]:
    """From the offset of each word that changes, where it was, to its new value.

    Raises Unknown if one cannot be told.
    """
    return _Words(boot, kernel).all()


class _Words:
    def __init__(self, boot: BootCode, kernel: NewKernel) -> None:
        self.boot, self.kernel = boot, kernel
        self.distance = kernel.distance
        self.lengths = Lengths.of(kernel.old, kernel.new, boot.room)
        self.labels = {
            boot.text[0], boot.text[1], len(boot.code), boot.bss[0], boot.end, boot.got
        } - {0}  # fmt: skip
        """Places that move and have names."""

    def all(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for off, value in (*self._in_head(), *self._in_text(), *self._in_data()):
            found[off] = value
        self._require_code_before_data()
        return found

    def _now(self, off: int) -> int:
        """Where what was at `off` is."""
        return off + self.distance if off >= self.boot.text[0] else off

    def _way(self, start: int, end: int) -> int:
        """How much longer the way from one place to the other is."""
        return (self._now(end) - end) - (self._now(start) - start)

    def _moves(self, off: int) -> bool:
        return self.boot.text[0] <= off <= self.boot.end + _PAST_END

    # -- code

    def _in_head(self) -> Iterator[tuple[int, int]]:
        boot = self.boot
        if boot.room is Room.LENGTHS:
            yield boot.head_end, self.kernel.new.input_len
            if _word(boot.code, boot.payload[1] - WORD_LEN) != self.kernel.old.output_len:
                raise UnknownBootCode("the payload does not end with its length", boot.payload[1])
        for line in boot.head:
            if line.target is not None and line.is_wide:
                yield from self._branch(line)
            for wide in line.wides:
                if wide == boot.room_at and boot.room is Room.INIT_SIZE:
                    moved = self._now(boot.base) - boot.base
                    yield wide.off, wide.value + whole_pages(self.distance) - moved
                elif wide == boot.room_at and boot.room is Room.DISTANCE:
                    yield wide.off, self._copy_place()
                elif wide == boot.copied:
                    yield wide.off, wide.value + self.distance
                else:
                    yield from self._of_assembly(line, wide)

    def _in_text(self) -> Iterator[tuple[int, int]]:
        boot = self.boot
        for line in boot.tail:
            if line.off >= boot.text[1]:
                break
            is_assembly = boot.is_assembly(line.off)
            if line.target is not None and line.is_wide:
                yield from self._branch(line) if is_assembly else self._c_branch(line)
            for wide in line.wides:
                length = self.lengths(wide.value)
                if length is not None:
                    self._require_number(wide, boot.base if is_assembly else boot.got)
                    yield wide.off, length
                elif is_assembly:
                    yield from self._of_assembly_in_tail(line, wide)
                else:
                    yield from self._of_c(line, wide)

    def _require_number(self, wide: Wide, base: int) -> None:
        """Raise Unknown if the length in a field of code that counts from `base` may be a place."""
        if base or not self._moves(wide.value):
            return
        if not wide.is_immediate or wide.may_point or wide.value in self.labels:
            raise UnknownBootCode("a length of its kernel may be a place in the tail", wide.off)

    def _copy_place(self) -> int:
        return new_distance(self.boot, self.kernel.old, self.kernel.new)

    def _of_assembly_in_tail(self, line: Line, wide: Wide) -> Iterator[tuple[int, int]]:
        boot = self.boot
        before = next((each for each in boot.tail if each.end == line.off), None)
        reads_size = before is not None and before.operands == "eax, dword ptr [esi + 0x260]"
        if reads_size and line.name == "sub" and line.operands.startswith("eax, "):
            if wide.value != boot.end:
                raise UnknownBootCode("a word should be its end", wide.off)
            yield wide.off, wide.value + whole_pages(self.distance)
        elif boot.room is Room.DISTANCE and wide.value == -boot.room_at.value:
            yield wide.off, -self._copy_place()
        elif line.name == "sub" and wide.is_immediate and line.off - wide.value in (0, 1):
            yield wide.off, wide.value + self.distance
        else:
            yield from self._of_assembly(line, wide)

    def _of_assembly(self, line: Line, wide: Wide) -> Iterator[tuple[int, int]]:
        """A word of head_32.S, in which every word is known."""
        boot, value, target = self.boot, wide.value, self.boot.base + wide.value
        pc = boot.base - value
        if wide.is_immediate and line.off - pc in (0, 1):
            yield from self._longer(wide, pc, boot.base)
        elif boot.room is Room.LENGTHS and target == boot.payload[1] - WORD_LEN:
            yield wide.off, value + self.kernel.new.input_len - self.kernel.old.input_len
        elif (not wide.is_immediate and self._moves(target)) or (
            0 <= target <= boot.payload[0] and (value < 0 or not boot.base)
        ):
            yield from self._longer(wide, boot.base, target)
        elif not self._is_number(value):
            raise UnknownBootCode(f"nothing tells what {value:#x} means", wide.off)

    def _is_number(self, value: int) -> bool:
        """Whether no place can be meant: small, an address of the kernel, a mask."""
        pa, page_offset = self.kernel.link
        low = value if value >= 0 else ~value
        is_mask = low & (low + 1) == 0
        is_link = value == pa or (value + page_offset) & 0xFFFFFFFF == 0
        return 0 <= value < _LEAST_TAIL or is_link or is_mask

    def _longer(self, wide: Wide, start: int, end: int) -> Iterator[tuple[int, int]]:
        way = self._way(start, end)
        if way:
            yield wide.off, wide.value + way

    def _branch(self, line: Line) -> Iterator[tuple[int, int]]:
        boot, target = self.boot, line.target or 0
        in_head, in_tail = target < boot.head_end, boot.text[0] <= target < boot.text[1]
        if not (in_head or in_tail):
            raise UnknownBootCode("a branch leaves the boot code", line.off)
        way = self._way(line.off, target)
        if way:
            if line.off >= boot.text[0] and not boot.is_entry(target):
                raise UnknownBootCode("a branch goes into the middle of the head", line.off)
            yield line.end - WORD_LEN, target + way - line.end

    def _c_branch(self, line: Line) -> Iterator[tuple[int, int]]:
        """Tables between functions may look like branches to anywhere outside of the parts."""
        boot, target = self.boot, line.target or 0
        if target < boot.text[0]:
            if not boot.is_entry(target):
                raise UnknownBootCode("a branch goes into the middle of the head", line.off)
            yield line.end - WORD_LEN, target - self.distance - line.end
        elif boot.text[1] <= target < len(boot.code):
            raise UnknownBootCode("a branch goes to data", line.off)

    def _of_c(self, line: Line, wide: Wide) -> Iterator[tuple[int, int]]:
        boot, value = self.boot, wide.value
        fetched = fetched_by(boot, line, wide)
        if fetched is not None:
            yield from self._longer(wide, fetched, boot.got)
        elif boot.got:
            yield from self._from_tail(wide, boot.got + value)
        elif self._moves(value):
            names_end = value == boot.payload[1]
            if not wide.is_immediate and wide.may_point and not names_end:
                yield wide.off, value + self.distance
            elif not wide.is_immediate or wide.may_point or value in self.labels:
                raise UnknownBootCode(f"{value:#x} may be a place in the tail", wide.off)

    def _from_tail(self, wide: Wide, target: int) -> Iterator[tuple[int, int]]:
        """A word of code that addresses from the tail: what it names there moves with it."""
        boot = self.boot
        start, end = boot.payload
        if not 0 <= target <= boot.text[0]:
            if wide.value in self.labels:
                raise UnknownBootCode(f"{wide.value:#x} may be a place in the tail", wide.off)
        elif target == 0 or target - start in _INDEX:
            yield wide.off, wide.value - self.distance
        elif target in (end, boot.text[0]) or (
            not wide.is_immediate and (target <= start or target - end in _INDEX)
        ):
            raise UnknownBootCode(f"{wide.value:#x} may be a place before the tail", wide.off)

    def _require_code_before_data(self) -> None:
        """Raise Unknown if what follows the code could be code that names a place or a length."""
        boot = self.boot
        for line in listing(boot.code[boot.text[1] :], boot.text[1]):
            if not line.name:
                return
            for wide in line.wides:
                try:
                    found = self.lengths(wide.value) is not None or any(self._of_c(line, wide))
                except UnknownBootCode:
                    found = False
                if found:
                    raise UnknownBootCode("this is either code or data", wide.off)

    # -- data

    def _in_data(self) -> Iterator[tuple[int, int]]:
        boot = self.boot
        pointers = self._pointers()
        spans = set(self.labels)
        if boot.got:
            spans |= {label - boot.got for label in (0, *boot.payload)}
        unread = unread_words(boot)
        for off in range(boot.text[1], len(boot.code) - WORD_LEN + 1):
            value = _word(boot.code, off)
            if off in unread:
                continue
            if off in pointers:
                if self._moves(value) and value != boot.payload[1]:
                    yield off, value + self.distance
                elif value not in (0, boot.payload[0]):
                    raise UnknownBootCode(f"the word {value:#x} points nowhere", off)
                continue
            length = self.lengths(value, off)
            if length is not None:
                if 0 in (boot.base, boot.got) and value in self.labels:
                    raise UnknownBootCode("a length of its kernel may be a place in the tail", off)
                yield off, length
            elif off % WORD_LEN == 0 and (value in spans or value + off in (0, boot.payload[0])):
                raise UnknownBootCode(f"the word {value:#x} may be a way between its parts", off)

    def _pointers(self) -> set[int]:
        """Where words of data hold offsets from startup_32."""
        boot = self.boot
        found = set(range(*boot.moved_words, WORD_LEN))
        for line, after in zip(boot.head, boot.head[1:], strict=False):
            if f"{after.name} {after.operands}" == _ADDS_TO_POINTER:
                found |= {wide.value + _POINTER_AT for wide in line.wides}
        return found if boot.got else found | self._tables()

    def _tables(self) -> set[int]:
        """Words of jump tables: each is the start of an instruction, and code names the first."""
        boot = self.boot
        starts = {line.off for line in boot.tail if line.name and line.off < boot.text[1]}
        named = [w.value for line in boot.tail if line.off < boot.text[1] for w in line.wides]
        found: set[int] = set()
        for first in named:
            if first < boot.text[1]:
                continue
            for off in range(first, len(boot.code) - WORD_LEN + 1, WORD_LEN):
                if _word(boot.code, off) not in starts:
                    break
                found.add(off)
        run = 0
        for off in range(-(-boot.text[1] // WORD_LEN) * WORD_LEN, len(boot.code) - 3, WORD_LEN):
            is_start = off not in found and _word(boot.code, off) in starts
            run = run + 1 if is_start else 0
            if run == _MIN_CASES:
                raise UnknownBootCode("no code names a table of places in its code", off)
        return found


def with_words(boot: BootCode, words: dict[int, int]) -> tuple[bytes, bytes]:
    """Head and tail of the boot code with these words."""
    code = bytearray(boot.code)
    for off, value in words.items():
        struct.pack_into("<I", code, off, value & 0xFFFFFFFF)
    return bytes(code[: boot.payload[0]]), bytes(code[boot.text[0] :])


def _word(code: bytes, off: int) -> int:
    return int.from_bytes(code[off : off + WORD_LEN], "little", signed=True)
