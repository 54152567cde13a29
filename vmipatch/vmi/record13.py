# SPDX-License-Identifier: MIT
"""What does a record of the March 2006 patches say, and how is it told from one of ours?

Both have 16 bytes and mostly the same fields (`record`). A record of API 13 has 0 in its last byte,
and its translation is pushes, `E8` with the number of the call as displacement, and, if something
was pushed, `lea k(%esp),%esp`; the site is the native instructions and as many bytes of padding as
make it no shorter. Each of these is demanded: a name decides nothing.
Source: vmi_annotate, vmi_call, vmi_nop_pad and vmi_wrap_call of mach_asm.h and vmi.h.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from vmipatch.errors import MalformedTable
from vmipatch.vmi.api13 import Call13
from vmipatch.vmi.record import FINAL_TRANSLATION, NEAR_CALL, RECORD_LEN, unpack_records

_LAYOUT: Final = struct.Struct("<IIIBBbB")
_WORD_LEN: Final = 4
_CALL: Final = 0xE8
_CALL_LEN: Final = 5
_PUSH_WORD, _PUSH_BYTE = 0x68, 0x6A
_PUSH_REGISTERS: Final = frozenset(range(0x50, 0x58)) - {0x54}
_LEA: Final = b"\x8d\x64\x24"
_LONGEST_NOP: Final = 12
_PREFIX: Final = b"\x66"

Read = Callable[[int, int], bytes]
"""The bytes at an address; shorter than asked for, or empty, where there are none."""


class Annotations(enum.Enum):
    """Whose records an annotation section holds."""

    OURS = "of a kernel that vmipatch rewrote"
    MARCH_2006 = "of VMI API 13, as the patches of March 2006 make them"
    UNKNOWN = "of neither"


@dataclass(frozen=True, slots=True)
class Record13:
    """One annotated site."""

    call: Call13
    native_va: int
    translation_va: int
    native: bytes = field(repr=False)
    """The site with its padding."""
    translation: bytes = field(repr=False)
    pad_len: int
    """Bytes of padding at the site; negative: how much shorter the translation is."""


def whose(data: bytes, read: Read) -> Annotations:
    """Whose the records in `data` are, by what they and the bytes that they name say."""
    if records_13(data, read):
        return Annotations.MARCH_2006
    try:
        ours = all(
            _holds_call(read(record.translation_va, record.translation_len), record.call_off)
            for record in unpack_records(data)
        )
    except MalformedTable:
        ours = False
    return Annotations.OURS if ours else Annotations.UNKNOWN


def records_13(data: bytes, read: Read) -> tuple[Record13, ...]:
    """The records of API 13 in `data`; none if one of them is not one."""
    records: list[Record13] = []
    for fields in _LAYOUT.iter_unpack(data) if len(data) % RECORD_LEN == 0 else ():
        record = _record(fields, read)
        if record is None:
            return ()
        records.append(record)
    return tuple(records)


def _holds_call(translation: bytes, call_off: int) -> bool:
    """Whether a translation of ours has its call: final, or one that is still to be aimed."""
    if call_off == FINAL_TRANSLATION:
        return translation[:1] == NEAR_CALL[:1]
    return translation[call_off : call_off + len(NEAR_CALL)] == NEAR_CALL


def _record(fields: tuple[int, ...], read: Read) -> Record13 | None:
    number, native_va, translation_va, native_len, translation_len, pad_len, last = fields
    if last or number not in Call13.__members__.values() or number == Call13.INIT:
        return None
    if native_len != translation_len + max(-pad_len, 0) or translation_len < pad_len:
        return None
    native, translation = read(native_va, native_len), read(translation_va, translation_len)
    if len(native) != native_len or len(translation) != translation_len:
        return None
    if not _calls(translation, number) or not _is_padded(native, pad_len):
        return None
    return Record13(Call13(number), native_va, translation_va, native, translation, pad_len)


def _calls(translation: bytes, number: int) -> bool:
    """Whether it is pushes, one call with that number, and what takes the pushes off."""
    at = pushed = 0
    while at < len(translation) and translation[at] != _CALL:
        if translation[at] in _PUSH_REGISTERS:
            at += 1
        elif translation[at] in (_PUSH_BYTE, _PUSH_WORD):
            at += 2 if translation[at] == _PUSH_BYTE else _CALL_LEN
        else:
            return False
        pushed += 1
    call = translation[at : at + _CALL_LEN]
    if call != bytes([_CALL]) + number.to_bytes(_CALL_LEN - 1, "little"):
        return False
    rest = translation[at + _CALL_LEN :]
    return rest == (_LEA + bytes([_WORD_LEN * pushed]) if pushed else b"")


def _is_padded(native: bytes, pad_len: int) -> bool:
    """Whether a site ends in that much padding, and no prefix in front of it belongs to that."""
    padding = b"".join(_nops(pad_len))
    return native.endswith(padding) and not native[: len(native) - len(padding)].endswith(_PREFIX)


def _nops(length: int) -> Iterator[bytes]:
    """The padding of vmi_nop_pad: nops of at most 12 bytes, by prefixes."""
    while length > 0:
        group = min(length, _LONGEST_NOP)
        yield _PREFIX * (group - 1) + b"\x90"
        length -= group
