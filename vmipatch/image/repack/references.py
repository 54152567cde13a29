# SPDX-License-Identifier: MIT
"""Which words of the boot code change when its tail moves and its kernel is another?

Head and payload stay, the tail moves, and with it the global offset table. Each field of 32 bits in
the code, and each word of the data, is one of these:

    what it says                          what becomes of it
    a constant of the kernel (Constants)  the constant of the new kernel
    GOT to head or start of the payload   the distance grows
    head to GOT, from start to _bss       the distance grows
    GOT to _end (in the head)             the distance grows to the end of a page
    branch between head and tail          the distance grows
    GOT to tail, branch inside a part     nothing
    a number                              nothing
    anything else                         UnclassifiedReference

A number that is near some address is still a number (bunzip2 compares with 0x177245): what the
linker can write is a distance from the GOT or a branch, for it refuses run-time relocations, and
differences that assembly writes begin or end at a label of the linker script. _end is the GOT, its
distance 0 like many a number: only the head asks for it (head_32.S).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields

from vmipatch.image.repack.boot_code import BootCode, unclassified
from vmipatch.isa.fields import Field, FieldKind, wide_fields

PAGE = 4096
_WORD = struct.Struct("<i")
_NEAR_PAYLOAD = (-16, 64)
"""What compilers make of indices of input_data: gunzip reads its header byte by byte, unlz4 the
four bytes before an index."""
_SMALL = 1 << 16
"""Numbers below are selectors, field offsets and lengths, for no tail begins so early."""
_BEHIND_END = 64


def pages(length: int) -> int:
    """`length`, up to the end of a page."""
    return -(-length // PAGE) * PAGE


@dataclass(frozen=True, slots=True)
class Constants:
    """What the boot code knows of its kernel, in bytes."""

    input_len: int
    """The payload: z_input_len."""
    output_len: int
    """The unpacked payload: z_output_len."""
    total_len: int
    """kernel_total_size: from _text to _end."""
    bss_len: int
    """From _text to __bss_start: relocations behind it are refused."""
    text_len: int
    """kernel_text_size: from _text to __start_rodata."""


NEEDED = ("input_len", "output_len", "total_len")
"""What every such boot code holds (piggy.S, arch/x86/boot/compressed/misc.c)."""


_UNALIGNED = ("input_len", "output_len")
"""piggy.S does not ask for an alignment."""


@dataclass(frozen=True, slots=True)
class Change:
    """A word of the boot code (at its old offset) and what it becomes."""

    off: int
    value: int
    reason: str


def changed_words(
    boot: BootCode, distance: int, old: Constants, new: Constants, link_pa: int
) -> list[Change]:
    """The words to write when the tail of `boot` moves by `distance` bytes.

    `link_pa` is the address that the kernel is linked for (pref_address). Raises
    UnclassifiedReference if a word is none of the kinds above, or a constant is missing.
    """
    constants = _Replacements(old, new)
    changes = [
        *_in_head(boot, distance, link_pa),
        *_in_text(boot, distance, constants),
        *_in_data(boot, constants),
    ]
    constants.require_found(boot)
    return changes


class _Replacements:
    """Old constants to new ones, and which were met."""

    def __init__(self, old: Constants, new: Constants) -> None:
        self.names = {getattr(old, f.name): f.name for f in fields(Constants)}
        self.new = new
        self.found: set[str] = set()

    def change(self, off: int, value: int, *, aligned: bool = True) -> Change | None:
        name = self.names.get(value)
        if name is None or not (aligned or name in _UNALIGNED):
            return None
        self.found.add(name)
        return Change(off, getattr(self.new, name), name)

    def require_found(self, boot: BootCode) -> None:
        missing = [name for name in NEEDED if name not in self.found]
        if missing:
            raise unclassified(
                f"its constants were not found: {', '.join(missing)}", boot.name, boot.text_off
            )


def _in_head(boot: BootCode, distance: int, link_pa: int) -> Iterator[Change]:
    end = boot.payload_off
    for field in wide_fields(boot.code[:end], 0):
        value, target = field.value, boot.got_off + field.value
        if field.va == boot.end_word_off:
            yield Change(field.va, value + pages(distance) - distance, "GOT to _end")
        elif field.kind is FieldKind.BRANCH:
            if boot.text_off <= value < boot.text_end_off:
                yield Change(field.va, value + distance - field.va - 4, "branch to the tail")
            elif not 0 <= value < end:
                raise _unknown(boot, field)
        elif 0 <= target < end and value < 0:
            yield Change(field.va, value - distance, "GOT to head")
        elif boot.got_off - value in (field.instruction_va, field.instruction_va - 1):
            # The distance counts from the pop in front, one byte long.
            yield Change(field.va, value + distance, "head to GOT")
        elif field.kind is FieldKind.IMMEDIATE and value == boot.bss_off:
            yield Change(field.va, value + distance, "start to _bss")
        elif not (0 <= value < _SMALL or value == link_pa or _in_tail(boot, target)):
            raise _unknown(boot, field)


def _in_text(boot: BootCode, distance: int, constants: _Replacements) -> Iterator[Change]:
    start, end = boot.text_off, boot.text_end_off
    for field in wide_fields(boot.code[start:], start):
        change = constants.change(field.va, field.value) if field.va < end else None
        change = change or _reference(boot, field, distance)
        if change and field.va >= end:
            raise unclassified("this is either code or data", boot.name, field.va)
        if change:
            yield change


def _reference(boot: BootCode, field: Field, distance: int) -> Change | None:
    """The change of a field in the tail that leads out of it."""
    value, target = field.value, boot.got_off + field.value
    inside = field.va < boot.text_end_off
    if field.kind is FieldKind.BRANCH:
        if boot.text_off <= value < boot.text_end_off or not inside:
            return None
        if value:
            raise _unknown(boot, field)
        return Change(field.va, -distance - field.va - 4, "branch to startup_32")
    if value == boot.got_off - field.instruction_va:
        return None  # behind the call that fetches the program counter; both ends move
    if 0 <= target <= boot.text_off:
        near = _NEAR_PAYLOAD[0] <= target - boot.payload_off < _NEAR_PAYLOAD[1]
        if target == 0 or near:
            return Change(field.va, value - distance, "GOT to head or payload")
        # Where the payload ends without padding, its end and the start of .text are one address.
        ends = (boot.payload_end_off, boot.text_off)
        number = field.kind is FieldKind.IMMEDIATE and target not in ends
        if not number and inside:
            raise _unknown(boot, field)
    elif inside and value in _labels_of_tail(boot):
        raise _unknown(boot, field)
    return None


def _in_data(boot: BootCode, constants: _Replacements) -> Iterator[Change]:
    """Behind the code: constants, not aligned by piggy.S, and no word that spans the parts."""
    labels = (0, boot.payload_off, boot.payload_end_off)
    spans = _labels_of_tail(boot) | {label - boot.got_off for label in labels}
    for off in range(boot.text_end_off, boot.edata_off - 3):
        (value,) = _WORD.unpack_from(boot.code, off)
        if change := constants.change(off, value, aligned=off % 4 == 0):
            yield change
        elif off % 4 == 0 and (value in spans or value + off in labels[:2]):
            raise unclassified(f"the word {value:#x} spans the moving parts", boot.name, off)


def _labels_of_tail(boot: BootCode) -> set[int]:
    """Distances from startup_32 that would grow."""
    ends = {boot.edata_off, boot.bss_off, boot.end_off, boot.got_off}
    return ends | {boot.text_off, boot.text_end_off}


def _in_tail(boot: BootCode, off: int) -> bool:
    return boot.text_off <= off <= boot.end_off + _BEHIND_END


def _unknown(boot: BootCode, field: Field) -> Exception:
    return unclassified(
        f"the {field.kind.value} {field.value:#x} of an instruction is nothing known",
        boot.name,
        field.instruction_va,
    )
