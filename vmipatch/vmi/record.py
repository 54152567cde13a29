# SPDX-License-Identifier: MIT
"""What does one annotation say? The 16-byte record of a call site.

Layout of the March 2006 patches (struct vmi_annotation), with the call offset that the
API 3.0 tree put into the last byte:

| offset | type | field |
| --- | --- | --- |
| 0 | u32 | VMI call number |
| 4 | u32 | address of the padded native body |
| 8 | u32 | address of the translation |
| 12 | u8 | length of the padded native body |
| 13 | u8 | length of the translation |
| 14 | s8 | bytes of padding in the native body |
| 15 | u8 | offset of the call inside the translation, 0xFF: the translation is final |
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vmipatch.errors import MalformedTable
from vmipatch.vmi.calls import VmiCall

_LAYOUT = struct.Struct("<IIIBBbB")
RECORD_LEN = _LAYOUT.size
NATIVE_VA_OFF = 4
TRANSLATION_VA_OFF = 8
NEAR_CALL_LEN = 5
NEAR_CALL = b"\xe8\0\0\0\0"
"""`call .+5`: the translation of a site that calls the ROM directly, before it is aimed."""
FINAL_TRANSLATION = 0xFF
MERGE_FLAGS = 0x100
"""In the table of calls inside thunks: no call, but a place that merges flags."""


@dataclass(frozen=True, slots=True)
class AnnotationRecord:
    """One site, as the runtime will find it."""

    call: VmiCall
    native_va: int
    translation_va: int
    native_len: int
    translation_len: int
    pad_len: int
    call_off: int

    def pack(self) -> bytes:
        """The 16 bytes of the record."""
        return _LAYOUT.pack(
            self.call,
            self.native_va,
            self.translation_va,
            self.native_len,
            self.translation_len,
            self.pad_len,
            self.call_off,
        )


def pack_records(records: Iterable[AnnotationRecord]) -> bytes:
    """The bytes of an annotation section."""
    return b"".join(record.pack() for record in records)


def unpack_records(
    data: bytes, section: str = ".vmi.annotation", file: str | None = None
) -> Iterator[AnnotationRecord]:
    """The records of an annotation section; its name and that of the file are for messages.

    Raises MalformedTable on a broken size or an unknown call number.
    """
    if len(data) % RECORD_LEN:
        raise MalformedTable("the annotation section has a broken size", file=file, place=section)
    for index, fields in enumerate(_LAYOUT.iter_unpack(data)):
        try:
            call = VmiCall(fields[0])
        except ValueError as error:
            raise MalformedTable(
                f"record {index} names call {fields[0]}, which does not exist",
                file=file,
                place=section,
            ) from error
        yield AnnotationRecord(call, *fields[1:])
