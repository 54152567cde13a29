# SPDX-License-Identifier: MIT
"""Changes of a rewritten bzImage: headers for EFI and loaders, boot code, payload, its kernel.

The CRC of the file is made right again; what is inside the payload is packed as it was.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tests.verify.adversarial import of_added, of_contents, of_headers
from tests.verify.adversarial.kinds import (
    OF_ELF,
    ChangeKind,
    NotHere,
    Target,
    other_byte,
    other_value,
    times,
)
from tests.verify.bzimage.flips import regions
from tests.verify.edit import FileEdit
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import pack_payload
from vmipatch.verify.static.bzimage.around import CRC_LEN, crc_of
from vmipatch.verify.static.bzimage.inputs import Shipped

FIELDS = (
    (0x1F1, 1), (0x1F2, 2), (0x1F4, 4), (0x1F8, 2), (0x1FA, 2), (0x1FC, 2), (0x1FE, 2), (0x200, 2),
    (0x202, 4), (0x206, 2), (0x208, 4), (0x20C, 2), (0x20E, 2), (0x210, 1), (0x211, 1), (0x212, 2),
    (0x214, 4), (0x218, 4), (0x21C, 4), (0x220, 4), (0x224, 2), (0x226, 1), (0x227, 1), (0x228, 4),
    (0x22C, 4), (0x230, 4), (0x234, 1), (0x235, 1), (0x236, 2), (0x238, 4), (0x23C, 4), (0x240, 8),
    (0x248, 4), (0x24C, 4), (0x250, 8), (0x258, 8), (0x260, 4), (0x264, 4), (0x268, 4),
)  # fmt: skip
"""Offset and bytes of each field of the setup header (Documentation/x86/boot.rst of Linux)."""
PAYLOAD_LENGTH = (0x24C, 4)
PE_OFF_AT, COFF_LEN, PE_SECTION_LEN = 0x3C, 24, 40
OF_COFF = ((4, 2), (6, 2), (8, 4), (12, 4), (16, 4), (20, 2), (22, 2))
OF_OPTIONAL = (
    (0, 2), (2, 1), (3, 1), (4, 4), (8, 4), (12, 4), (16, 4), (20, 4), (24, 4), (28, 4), (32, 4),
    (36, 4), (40, 4), (44, 4), (48, 4), (52, 4), (56, 4), (60, 4), (64, 4), (68, 2), (70, 2),
    (72, 4), (76, 4), (80, 4), (84, 4), (88, 4), (92, 4), (128, 4), (132, 4),
)  # fmt: skip
OF_PE_SECTION = ((0, 8), (8, 4), (12, 4), (16, 4), (20, 4), (24, 4), (28, 4), (32, 2), (34, 2),
                 (36, 4))  # fmt: skip
"""Fields of a COFF header, an optional header of PE32 and a row of the section table (Microsoft's
PE Format)."""


@dataclass(frozen=True, eq=False)
class Whole:
    """A rewritten bzImage whose parts are known."""

    shipped: Shipped

    @property
    def data(self) -> bytes:
        """The file."""
        return self.shipped.output

    @cached_property
    def regions(self) -> dict[str, range]:
        """Offsets of its parts."""
        return regions(self.shipped)

    @cached_property
    def kernel(self) -> ElfImage:
        """The ELF file in it."""
        return ElfImage.parse(self.shipped.new.vmlinux, "inside")

    @property
    def listed(self) -> bytes:
        """The relocation list, which follows the ELF file in the unpacked payload."""
        return self.shipped.new.payload.unpacked[len(self.shipped.new.vmlinux) :]

    def with_payload(self, unpacked: bytes) -> bytes:
        """The file with another payload, packed by its recipe. Raises NotHere if it does not fit
        where the payload was.
        """
        assert self.shipped.notes is not None and self.shipped.notes.recipe is not None
        stream = pack_payload(self.shipped.notes.recipe, unpacked)
        payload, notes = self.regions["payload"], self.regions["notes"]
        end = self.regions["tail"].start
        parts = stream + self.data[notes.start : notes.stop]
        if payload.start + len(parts) > end:
            raise NotHere
        at, width = PAYLOAD_LENGTH
        header = self.data[:at] + len(stream).to_bytes(width, "little")
        middle = parts.ljust(end - payload.start, b"\0")
        return header + self.data[at + width : payload.start] + middle + self.data[end:]


Change = Callable[[Whole, random.Random, Target], tuple[bytes, str]]
OF_BZIMAGE: dict[str, ChangeKind] = {}


def _kind(
    name: str, targets: Callable[[Whole], Sequence[Target]], weight: int = 1
) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        OF_BZIMAGE[name] = ChangeKind(name, targets, change, weight)
        return change

    return register


def sealed(data: bytes) -> bytes:
    """The file with the CRC that Linux's build would give it."""
    return data[:-CRC_LEN] + crc_of(data[:-CRC_LEN])


def _with_field(data: bytes, at: int, width: int, dice: random.Random) -> tuple[bytes, int]:
    value = other_value(int.from_bytes(data[at : at + width], "little"), dice, width)
    return data[:at] + value.to_bytes(width, "little") + data[at + width :], value


@_kind("bzImage: field of the setup header", lambda _: FIELDS)
def setup_field(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    at, width = target
    data, value = _with_field(whole.data, at, width, dice)
    return data, f"the field at {at:#x} is {value:#x}"


def _efi_fields(whole: Whole) -> Sequence[Target]:
    data = whole.data
    (at,) = struct.unpack_from("<I", data, PE_OFF_AT)
    if data[:2] != b"MZ" or data[at : at + 4] != b"PE\0\0":
        return []
    count, optional_len = (struct.unpack_from("<H", data, at + off)[0] for off in (6, 20))
    optional = at + COFF_LEN
    table = optional + optional_len
    found = [(PE_OFF_AT, 4)] + [(at + off, width) for off, width in OF_COFF]
    found += [(optional + off, width) for off, width in OF_OPTIONAL]
    for index in range(count):
        found += [(table + PE_SECTION_LEN * index + off, width) for off, width in OF_PE_SECTION]
    return found


@_kind("bzImage: field of the headers for EFI", _efi_fields)
def efi_field(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    at, width = target
    data, value = _with_field(whole.data, at, width, dice)
    return data, f"the field at {at:#x} is {value:#x}"


def _regions(whole: Whole) -> Sequence[Target]:
    return [(name,) for name in whole.regions]


@_kind("bzImage: a byte", _regions, weight=4)
def region_byte(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    where, data = whole.regions[target[0]], bytearray(whole.data)
    at = dice.choice((where.start, where.stop - 1, dice.choice(where)))
    data[at] = other_byte(data[at], dice)
    return bytes(data), f"offset {at:#x}, {target[0]}"


@_kind("bzImage: a part is zeros", _regions)
def region_zeroed(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    where, data = whole.regions[target[0]], bytearray(whole.data)
    data[where.start : where.stop] = bytes(len(where))
    return bytes(data), target[0]


@_kind("bzImage: instructions of boot code", lambda _: [("head",), ("tail",), ("setup code",)],
       weight=2)  # fmt: skip
def boot_instructions(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    where, data = whole.regions[target[0]], bytearray(whole.data)
    code = dice.choice((b"\x90\x90", b"\xeb\xfe", b"\xcc", b"\xfa\xf4", b"\xe9\0\0\0\0"))
    at = dice.choice(where[: -len(code)])
    data[at : at + len(code)] = code
    return bytes(data), f"{code.hex()} at {at:#x}, {target[0]}"


@_kind("bzImage: trailing bytes", lambda _: [(1,), (16,), (512,), (4096,)])
def trailing(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    return whole.data + bytes(target[0]), f"{target[0]} bytes"


@_kind("bzImage: cut off", lambda _: [(1,), (16,), (512,)])
def cut(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    return whole.data[: -target[0]], f"{target[0]} bytes"


@_kind("bzImage: slack of the payload", lambda _: [(by,) for by in (-8, -4, -1, 1, 4, 8)])
def slack(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    """The payload ends elsewhere, and the notes begin there; zeros fill what becomes free."""
    (by,), (at, width) = target, PAYLOAD_LENGTH
    payload, notes, data = whole.regions["payload"], whole.regions["notes"], whole.data
    end = whole.regions["tail"].start
    middle = data[payload.start : payload.stop + min(by, 0)] + bytes(max(by, 0))
    middle += data[notes.start : notes.stop]
    if payload.start + len(middle) > end:
        raise NotHere
    length = (len(payload) + by).to_bytes(width, "little")
    front = data[:at] + length + data[at + width : payload.start]
    return front + middle.ljust(end - payload.start, b"\0") + data[end:], f"by {by}"


@_kind("bzImage: notes left out", lambda _: [()])
def no_notes(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    data, notes = bytearray(whole.data), whole.regions["notes"]
    data[notes.start : notes.stop] = bytes(len(notes))
    return bytes(data), "zeros in their place"


@_kind("bzImage: relocation list", times(6))
def list_changed(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    listed = whole.listed
    zero = listed.find(bytes(4))
    words = [listed[i : i + 4] for i in range(0, len(listed), 4)]
    if zero < 0 or len(words) < 4:
        raise NotHere
    index = dice.randrange(len(words) // 2, len(words) - 1)
    how = ("added", "removed", "altered", "doubled", "reordered", "zero more")[target[0]]
    match how:
        case "added":
            words.append(struct.pack("<I", struct.unpack("<I", words[-1])[0] + 4))
        case "removed":
            del words[index]
        case "altered":
            words[index] = struct.pack("<I", struct.unpack("<I", words[index])[0] ^ 4)
        case "doubled":
            words.insert(index, words[index])
        case "reordered":
            words[index], words[index + 1] = words[index + 1], words[index]
        case _:
            words.append(bytes(4))
    return whole.with_payload(whole.shipped.new.vmlinux + b"".join(words)), how


INSIDE = (of_headers.segment_field, of_headers.section_field, of_contents.content_byte,
          of_contents.gap_byte, of_contents.words_exchanged, of_added.record_field,
          of_added.thunks_exchanged, of_added.added_code_byte,
          of_contents.other_encoding, of_added.number_changed, of_headers.file_field,
          of_added.padding_after)  # fmt: skip
"""Changes of ELF files that need no symbols."""
_NAMES = [kind.name for kind in OF_ELF.values() if kind.apply in INSIDE]


@_kind("bzImage: kernel inside", lambda _: [(name,) for name in _NAMES])
def inside(whole: Whole, dice: random.Random, target: Target) -> tuple[bytes, str]:
    kind, image = OF_ELF[target[0]], whole.kernel
    edit = FileEdit.of(image)
    what = kind.apply(edit, dice, dice.choice(list(kind.targets(image))))
    changed = edit.file()
    if changed == image.data or len(changed) != len(image.data):
        raise NotHere
    return whole.with_payload(changed + whole.listed), f"{target[0]}: {what}"


def changed(whole: Whole, kind: str, target: Target, dice: random.Random) -> tuple[bytes, str]:
    """The file after a change. Raises NotHere if nothing was changed."""
    data, what = OF_BZIMAGE[kind].apply(whole, dice, target)
    whole_but_crc = len(data) == len(whole.data) and data[:-CRC_LEN] == whole.data[:-CRC_LEN]
    if data == whole.data:
        raise NotHere
    return data if whole_but_crc else sealed(data), what
