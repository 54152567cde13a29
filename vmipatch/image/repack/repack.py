# SPDX-License-Identifier: MIT
"""How does another kernel come into a bzImage whose boot code stays?

    setup | head | payload | tail | CRC
                      |       `- moves, its references follow (references.py)
                      `- longer

KASLR, mem=, the EFI stub and everything else of the boot code stay what they are.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Recipe, pack_payload
from vmipatch.image.repack import pe_header
from vmipatch.image.repack.boot_code import BootCode, pages
from vmipatch.image.repack.constants import ChangedWord, Constants, Link
from vmipatch.image.repack.payload_image import payload_image, stripped
from vmipatch.image.repack.references import changed_words
from vmipatch.image.setup_header import HEADER_OFF, SetupHeader

STEP = 512
"""The tail moves by multiples: more than any of its parts is aligned to, but for EFI firmware."""
CRC_LEN = 4
_CRC_OF_ALL = 0xFFFFFFFF
"""zlib.crc32 of a file that ends with the CRC of Linux's tools/build.c (it is not inverted)."""
_EXTRA_LEN = 128 << 10
"""How far decompression in place may run ahead, besides 1/256 (header.S, ZO_z_extra_bytes)."""
_SPARE_LEN = 64
"""A note may get longer when its length moves the tail."""


@dataclass(frozen=True, slots=True)
class Repacked:
    """The new bzImage and what was done."""

    data: bytes = field(repr=False)
    changes: tuple[ChangedWord, ...]
    """Words of the boot code, at their old offsets."""
    distance: int
    """By how many bytes the tail moved."""
    dropped: tuple[str, ...]
    """Parts of the old file that could not be kept."""


def repack(
    data: bytes,
    old: BzImage,
    kernel: ElfImage,
    relocs: tuple[int, ...] | None,
    recipe: Recipe,
    note_for: Callable[[bytes], bytes] | None = None,
    unpacked: Collection[str] = (),
) -> Repacked:
    """The bzImage `data`, read as `old`, with the vmlinux `kernel` in it.

    `relocs` are the words that move with the kernel; `recipe` tells how to pack. `note_for` gives,
    for the new file, what is to stand after its payload; what stands there counts for nothing but
    the length of the file and the sum in its last four bytes; `unpacked` names loaded sections that
    the build does not pack. Raises UnclassifiedReference if the
    boot code holds a word of unknown meaning, InputNotUnderstood if the kernel
    does not fit it.
    """
    boot = BootCode.parse(data, old.header, old.name)
    before = ElfImage.parse(old.vmlinux, old.name)
    link = Link.of(before, old.header)
    inside = payload_image(stripped(kernel, unpacked), relocs, link.pa, old.name)
    payload = pack_payload(recipe, inside)
    job = _Job(data, old, boot, before, kernel, inside, link)
    made = job.around(payload, b"")
    if note_for is None:
        return made
    note = note_for(made.data)
    while True:
        room = -(-(len(note) + _SPARE_LEN) // _SPARE_LEN) * _SPARE_LEN
        note = note_for(job.around(payload, bytes(room)).data)
        if len(note) <= room:
            return job.around(payload, note.ljust(room, b"\0"))


@dataclass(frozen=True, slots=True)
class _Job:
    """The values that stay the same while it is tried how much room a note needs."""

    data: bytes = field(repr=False)
    old: BzImage
    boot: BootCode
    before: ElfImage
    """The kernel inside of the old file."""
    kernel: ElfImage
    unpacked: bytes = field(repr=False)
    link: Link

    def around(self, payload: bytes, following: bytes) -> Repacked:
        """The file with this payload, and `following` between it and the tail."""
        data, boot, header = self.data, self.boot, self.old.header
        old_len = len(self.old.payload.unpacked)
        before = Constants.of(self.before, header.payload_length, old_len, self.link)
        new_header = replace(header, payload_length=len(payload))
        after = Constants.of(self.kernel, len(payload), len(self.unpacked), self.link)
        distance = _distance(
            boot, len(payload) + len(following), pe_header.alignment(data, boot.name)
        )
        changes = changed_words(boot, distance, before, after, self.link)
        code = _rebuilt(boot, payload + following, distance, changes)
        new_header = replace(
            new_header,
            syssize=len(code) // 16,
            init_size=max(_init_size(boot, distance, after), header.init_size),
            handover_offset=boot.moved(header.handover_offset, distance),
            kernel_info_offset=boot.moved(header.kernel_info_offset, distance),
        )
        setup, dropped = _setup(data, boot, new_header, header, distance)
        file = setup + code
        if zlib.crc32(_unsigned(data, header)) == _CRC_OF_ALL:
            crc = zlib.crc32(file[:-CRC_LEN]) ^ _CRC_OF_ALL
            file = file[:-CRC_LEN] + struct.pack("<I", crc)
        return Repacked(file, tuple(changes), distance, dropped)


def _distance(boot: BootCode, payload_len: int, align: int) -> int:
    """How far the tail moves so that the payload fits."""
    step = max(align, STEP)
    return -(-max(boot.payload_off + payload_len - boot.text_off, 0) // step) * step


def _rebuilt(boot: BootCode, payload: bytes, distance: int, changes: list[ChangedWord]) -> bytes:
    code = bytearray(boot.code)
    for change in changes:
        struct.pack_into("<I", code, change.off, change.value & 0xFFFFFFFF)
    front = bytes(code[: boot.payload_off]) + payload
    return front.ljust(boot.text_off + distance, b"\0") + bytes(code[boot.text_off :])


def _init_size(boot: BootCode, distance: int, new: Constants) -> int:
    """Bytes from the start of the kernel that must be free (header.S, INIT_SIZE).

    Besides what Linux demands, the boot code's own memory lies after the last segment, which is
    put in its place while that code runs.
    """
    ahead = new.output_len + (new.output_len >> 8) + _EXTRA_LEN - new.input_len
    end_off = boot.end_off + pages(distance)
    in_place = end_off + pages(max(ahead, _EXTRA_LEN))
    following = new.total_len + pages(end_off - boot.text_off - distance)
    return pages(max(in_place, following))


def _setup(
    data: bytes, boot: BootCode, header: SetupHeader, old: SetupHeader, distance: int
) -> tuple[bytes, tuple[str, ...]]:
    """The real-mode part, and what is lost."""
    setup = bytearray(data[: old.code_off])
    emitted = header.emit()
    setup[HEADER_OFF : HEADER_OFF + len(emitted)] = emitted
    dropped = []
    signed_off, signed_len = pe_header.certificates(data)
    if signed_len:
        dropped.append(f"signature of {signed_len} bytes")
    pe_header.without_signature(setup)
    following = len(data) - (signed_off + signed_len or old.code_off + boot.edata_off)
    if following > 0:
        dropped.append(f"{following} bytes after the image")
    if pe_header.is_pe(data):
        growth = pe_header.PeGrowth(
            old.code_off + boot.payload_off,
            old.code_off + boot.text_off,
            distance,
            header.init_size - old.init_size,
        )
        pe_header.grow(setup, growth, boot.name)
    return bytes(setup), tuple(dropped)


def _unsigned(data: bytes, header: SetupHeader) -> bytes:
    """The file as Linux's build left it, before somebody signed it."""
    file = bytearray(data[: header.code_off + header.syssize * 16])
    pe_header.without_signature(file)
    return bytes(file)
