# SPDX-License-Identifier: MIT
"""Which words of the boot code change when its tail moves and its kernel is another?

Head and payload stay, the tail moves. Each field of 32 bits in the code, and each word of the data,
is one of these:

    what it says                               what becomes of it
    a constant of the kernel (Constants)       the constant of the new kernel
    a distance from what code addresses from   grows or shrinks if one of the two moves
    program counter to global offset table     the same
    length of the copy (in the head)           grows
    _end, where memory has to suffice          grows to the end of a page
    branch between head and tail               the distance grows
    word of a table for a dynamic linker       nothing, for nothing reads it
    distance inside a part, a number           nothing
    anything else                              UnclassifiedReference

Code addresses from the global offset table (GOT) or from startup_32. What C code can hold are
distances from there and branches, for the linker refuses run-time relocations; differences that
assembly writes begin or end at a label of the linker script. A number that is near some address is
still a number (bunzip2 compares with 0x177245). Where code addresses from startup_32, a
displacement into the tail is a distance, since no structure is that long, and an immediate that
could be one is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from vmipatch.image.repack.boot_code import BootCode, pages
from vmipatch.image.repack.constants import (
    ChangedWord,
    Constants,
    Link,
    Replacements,
    extract_distance,
)
from vmipatch.image.repack.head import WORD_LEN, Room, unclassified
from vmipatch.image.repack.linker_tables import linker_tables
from vmipatch.image.repack.tail import jump_tables
from vmipatch.isa.fields import FieldKind, InstructionField, wide_fields, wide_fields_among_data

_WORD = struct.Struct("<i")
_NEAR_PAYLOAD = (-16, 64)
"""Indices of input_data that compilers make: gunzip reads its header byte by byte, unlz4 the
four bytes before an index."""
_SMALL = 1 << 16
"""Numbers below are selectors, field offsets and lengths, for no tail begins so early."""
_BEHIND_END = 64
_SUB_END = bytes.fromhex("8b86600200002d")
"""mov init_size(%esi), %eax; sub $_end, %eax: the tail repeats it (Linux 4.7 to 5.7)."""
_MOVE_POINTER = bytes.fromhex("017028")
"""add %esi, 40(%eax): the EFI stub's head moves a pointer in its data (Linux 3.17 to 5.6)."""
_POINTER_AT = 40


def changed_words(
    boot: BootCode, distance: int, old: Constants, new: Constants, link: Link
) -> list[ChangedWord]:
    """The words to write when the tail of `boot` moves by `distance` bytes.

    Raises UnclassifiedReference if a word is not one of the kinds above, or a constant is missing.
    """
    constants = Replacements(old, new, boot.head.room)
    return _Mover(boot, distance, constants, link).changes()


@dataclass(frozen=True)
class _Mover:
    """Boot code whose tail moves."""

    boot: BootCode
    distance: int
    constants: Replacements
    link: Link

    def changes(self) -> list[ChangedWord]:
        self._require_nothing_behind_text()
        found = [
            *self._length_in_head(),
            *self._in_head(),
            *self._in_text(),
            *self._in_data(),
        ]
        self.constants.require_found(self.boot)
        return found

    def _constant(self, field: InstructionField) -> ChangedWord | None:
        """The change of a field that holds a constant of the kernel.

        Raises UnclassifiedReference if it could be a place in the tail as well: where code counts
        from startup_32, a displacement or an immediate that may become an address.
        """
        if field.kind is FieldKind.BRANCH:
            return None
        change = self.constants.change(field.va, field.value)
        if change is None:
            return None
        boot = self.boot
        is_assembly = boot.tail.is_assembly(field.va)
        base = boot.head.base_off if is_assembly else boot.tail.got_off
        if base == 0 and self._in_tail(field.value):
            # What assembly does with an address is add it to a register: it pushes numbers alone.
            is_number = field.kind is FieldKind.IMMEDIATE and not field.may_point
            if not is_number or field.value in self._labels_of_tail:
                raise unclassified(
                    f"{change.reason} is a place in the tail, too", boot.name, field.va
                )
        return change

    def _require_nothing_behind_text(self) -> None:
        """Raise UnclassifiedReference if what may still be code looks as if it had to change."""
        boot, end = self.boot, self.boot.text_end_off
        for field in wide_fields(boot.code[end:], end):
            is_reference = field.kind is not FieldKind.BRANCH and self._reference(field)
            if is_reference or field.value in self.constants.names:
                raise unclassified("this is either code or data", boot.name, field.va)

    def _shift(self, off: int) -> int:
        return self.boot.moved(off, self.distance) - off

    def _led(
        self, field: InstructionField, base: int, target: int, reason: str
    ) -> ChangedWord | None:
        """The change of a distance from `base` to `target`, if it is one."""
        shift = self._shift(target) - self._shift(base)
        return ChangedWord(field.va, field.value + shift, reason) if shift else None

    # -- the head

    def _length_in_head(self) -> Iterator[ChangedWord]:
        """The word in front of the payload that old code has; another is the payload's last."""
        boot, constants = self.boot, self.constants
        if boot.head.room is Room.LENGTHS:
            end = boot.payload_end_off - WORD_LEN
            if _WORD.unpack_from(boot.code, end)[0] != constants.old.output_len:
                raise unclassified("the payload does not end with its length", boot.name, end)
            change = constants.change(boot.head.code_len, constants.old.input_len)
            assert change is not None
            yield change

    def _in_head(self) -> Iterator[ChangedWord]:
        boot, head = self.boot, self.boot.head
        for field in wide_fields(boot.code[: head.code_len], 0):
            if field.va == head.room_word_off and head.room is not Room.LENGTHS:
                yield self._room(field)
            elif field.va == head.copied_word_off:
                yield ChangedWord(field.va, field.value + self.distance, "length of the copy")
            elif change := self._assembly(field):
                yield change

    def _room(self, field: InstructionField) -> ChangedWord:
        """The word by which the head makes room."""
        head = self.boot.head
        if head.room is Room.DISTANCE:
            value = extract_distance(self.boot, self.constants.old, self.constants.new)
            return ChangedWord(field.va, value, "distance of the copy")
        grown = pages(self.distance) - self._shift(head.base_off)
        return ChangedWord(field.va, field.value + grown, "_end")

    def _assembly(self, field: InstructionField) -> ChangedWord | None:
        """The change of a field of head_32.S, of which everything is known."""
        boot, base = self.boot, self.boot.head.base_off
        value, target = field.value, base + field.value
        if field.kind is FieldKind.BRANCH:
            return self._branch(field)
        fetched = base - value
        if field.kind is FieldKind.IMMEDIATE and fetched in (
            field.instruction_va, field.instruction_va - 1,
        ):  # fmt: skip
            # The distance counts from the pop in front, one byte long.
            return self._led(field, fetched, base, "program counter to base")
        if boot.head.room is Room.LENGTHS and target == boot.payload_end_off - WORD_LEN:
            grown = self.constants.new.input_len - self.constants.old.input_len
            return ChangedWord(field.va, value + grown, "output_len")
        if field.kind is FieldKind.DISPLACEMENT and self._in_tail(target):
            return self._led(field, base, target, "part of the tail")
        in_head = 0 <= target <= boot.payload_off
        if in_head and (value < 0 or not base):
            return self._led(field, base, target, "part of the head")
        is_link = value == self.link.pa or (value + self.link.page_offset) % (1 << 32) == 0
        if 0 <= value < _SMALL or is_link or _is_mask(value):
            return None
        raise self._unknown(field)

    def _branch(self, field: InstructionField) -> ChangedWord | None:
        boot, target = self.boot, field.value
        if not (0 <= target < boot.head.code_len or boot.text_off <= target < boot.text_end_off):
            raise self._unknown(field)
        shift = self._shift(target) - self._shift(field.va)
        if not shift:
            return None
        if field.va >= boot.text_off and target not in boot.head.entries:
            raise self._unknown(field)
        return ChangedWord(field.va, target + shift - field.va - 4, "branch between the parts")

    # -- the tail

    def _in_text(self) -> Iterator[ChangedWord]:
        """Assembly and C code."""
        for field in self._fields:
            change = self._constant(field)
            if change is None and self.boot.tail.is_assembly(field.va):
                change = self._of_assembly(field)
            elif change is None:
                change = self._reference(field)
            if change:
                yield change

    def _of_assembly(self, field: InstructionField) -> ChangedWord | None:
        """The change of a field of the tail's assembly."""
        boot, distance = self.boot, self.boot.head.room_value
        if boot.code[field.va - len(_SUB_END) : field.va] == _SUB_END:
            if field.value != boot.end_off:
                raise self._unknown(field)
            return ChangedWord(field.va, field.value + pages(self.distance), "_end")
        if boot.head.room is Room.DISTANCE and field.value == -distance:
            new = extract_distance(boot, self.constants.old, self.constants.new)
            return ChangedWord(field.va, -new, "distance of the copy")
        if field.is_subtracted and field.value in (field.instruction_va, field.instruction_va - 1):
            return ChangedWord(field.va, field.value + self.distance, "program counter")
        return self._assembly(field)

    @cached_property
    def _fields(self) -> list[InstructionField]:
        start, end = self.boot.text_off, self.boot.text_end_off
        return list(wide_fields_among_data(self.boot.code[start:end], start))

    def _reference(self, field: InstructionField) -> ChangedWord | None:
        """The change of a field of C code that is a reference."""
        boot, got = self.boot, self.boot.tail.got_off
        value, target = field.value, got + field.value
        inside = field.va < boot.text_end_off
        if field.kind is FieldKind.BRANCH:
            return self._c_branch(field)
        if (fetched := boot.tail.fetch_of(field)) is not None:
            return self._led(field, fetched, got, "program counter to GOT")
        if self._shift(got):
            return self._from_moving_got(field, target, inside=inside)
        if not self._in_tail(value):
            return None
        is_displacement = field.kind is FieldKind.DISPLACEMENT
        if is_displacement and field.may_point and value != boot.payload_end_off:
            return self._led(field, got, value, "part of the tail")
        if inside and (is_displacement or field.may_point or value in self._labels_of_tail):
            raise self._unknown(field)
        return None

    def _from_moving_got(
        self, field: InstructionField, target: int, *, inside: bool
    ) -> ChangedWord | None:
        """A field of code that addresses from the tail: only what leads out of it changes."""
        boot, value = self.boot, field.value
        if 0 <= target <= boot.text_off:
            if target == 0 or _is_near(target, boot.payload_off):
                return ChangedWord(field.va, value - self.distance, "GOT to head or payload")
            # Where the payload ends without padding, its end and the start of .text are one
            # address. In its middle nothing has a name: `c - 0xd800` is arithmetic of UTF-16.
            in_middle = boot.payload_off < target and not _is_near(target, boot.payload_end_off)
            is_number = in_middle or field.kind is FieldKind.IMMEDIATE
            if inside and (not is_number or target in (boot.payload_end_off, boot.text_off)):
                raise self._unknown(field)
        elif inside and value in self._labels_of_tail:
            raise self._unknown(field)
        return None

    def _c_branch(self, field: InstructionField) -> ChangedWord | None:
        """Data between functions decodes as branches that lead anywhere, out of the code mostly."""
        boot, target = self.boot, field.value
        if target in self.boot.head.entries:
            return ChangedWord(
                field.va, target - self.distance - field.va - 4, "branch to the head"
            )
        if target < boot.text_off or boot.text_end_off <= target < boot.edata_off:
            raise self._unknown(field)
        return None

    # -- data

    def _in_data(self) -> Iterator[ChangedWord]:
        """After the code: constants, not aligned by piggy.S, and words that the code moves."""
        boot, code = self.boot, self.boot.code
        pointers = self._pointers()
        spans = self._spans
        unread = linker_tables(code, boot.tail.got_off, boot.text_end_off)
        for off in range(boot.text_end_off, boot.edata_off - 3):
            if any(low <= off < high for low, high in unread):
                continue
            (value,) = _WORD.unpack_from(code, off)
            if off in pointers:
                if self._in_tail(value) and value != boot.payload_end_off:
                    yield ChangedWord(off, value + self.distance, "part of the tail")
                elif value and value != boot.payload_off:
                    raise unclassified(f"the word {value:#x} points nowhere", boot.name, off)
            elif change := self.constants.change(off, value, aligned=off % 4 == 0):
                if self._counts_from_start and value in self._labels_of_tail:
                    raise unclassified(
                        f"{change.reason} is a place in the tail, too", boot.name, off
                    )
                yield change
            elif off % 4 == 0 and (value in spans or value + off in (0, boot.payload_off)):
                raise unclassified(f"the word {value:#x} spans the moving parts", boot.name, off)

    @property
    def _counts_from_start(self) -> bool:
        """Whether some code has offsets from startup_32 for places."""
        return 0 in (self.boot.head.base_off, self.boot.tail.got_off)

    def _pointers(self) -> frozenset[int]:
        """Offsets of the words that hold distances from startup_32."""
        boot, tail = self.boot, self.boot.tail
        found = set(range(*tail.moved_words, WORD_LEN))
        if tail.got_off == 0:
            found |= jump_tables(boot.code, tail, self._fields, boot.name)
        head = boot.code[: boot.head.code_len]
        at = head.find(_MOVE_POINTER)
        while at >= 0:
            before = wide_fields(head[at - 6 : at], at - 6)
            found |= {field.value + _POINTER_AT for field in before}
            at = head.find(_MOVE_POINTER, at + 1)
        return frozenset(found)

    @cached_property
    def _spans(self) -> set[int]:
        """Words that would have to change, of which it is unknown whether they are meant so."""
        boot, got = self.boot, self.boot.tail.got_off
        labels = (0, boot.payload_off, boot.payload_end_off)
        from_got = {label - got for label in labels} if self._shift(got) else set()
        return self._labels_of_tail | from_got

    @cached_property
    def _labels_of_tail(self) -> set[int]:
        """Distances from startup_32 that would grow."""
        boot = self.boot
        ends = {boot.edata_off, boot.tail.bss_off, boot.end_off, boot.tail.got_off} - {0}
        return ends | {boot.text_off, boot.text_end_off}

    def _in_tail(self, off: int) -> bool:
        return self.boot.text_off <= off <= self.boot.end_off + _BEHIND_END

    def _unknown(self, field: InstructionField) -> Exception:
        return unclassified(
            f"the {field.kind.value} {field.value:#x} of an instruction is nothing known",
            self.boot.name,
            field.instruction_va,
        )


def _is_near(target: int, label: int) -> bool:
    """Whether compilers may have made `target` of an index of the array at `label`."""
    return _NEAR_PAYLOAD[0] <= target - label < _NEAR_PAYLOAD[1]


def _is_mask(value: int) -> bool:
    """Whether a number of 32 bits rounds to a power of two."""
    low = value if value >= 0 else ~value
    return low & (low + 1) == 0
