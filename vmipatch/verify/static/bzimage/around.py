# SPDX-License-Identifier: MIT
"""Which bytes must stand around the payload of a bzImage that keeps its boot code?

    setup | head | payload, notes, zeros | tail | CRC-32 in the last word

Every byte but those of payload and notes is made from the original's. What the output decides is
how long the payload and the notes are; by how much the tail moves follows from that.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace

from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.setup_header import HEADER_OFF, SetupHeader
from vmipatch.verify.static.bzimage.boot_code import BootCode, UnknownBootCode, read_boot_code
from vmipatch.verify.static.bzimage.kernel_facts import KernelFacts, link_of, needed_memory
from vmipatch.verify.static.bzimage.pe import Longer, PeHeaders, grown
from vmipatch.verify.static.bzimage.words import NewKernel, new_words, with_words

_STEP = 512
"""The tail moves by multiples; of the alignment of the sections for EFI, if that is more."""
_SPARE_LEN = 192
"""Room that notes may leave: their length is known before they are."""
CRC_LEN = 4
_WHOLE_CRC = 0xFFFFFFFF
"""zlib.crc32 of a file that ends with the CRC of Linux's tools/build.c."""


@dataclass(frozen=True, slots=True)
class Inside:
    """The contents of the output, in bytes."""

    kernel: ElfImage
    """The proven kernel."""
    payload_len: int
    notes_len: int
    unpacked_len: int
    code_len: int
    """From startup_32 to the end of the file."""


@dataclass(frozen=True, slots=True)
class Around:
    """The expected bytes."""

    setup: bytes = field(repr=False)
    head: bytes = field(repr=False)
    tail_off: int
    """Of the file, like the others."""
    tail: bytes = field(repr=False)
    has_crc: bool
    """Whether the last word of the tail is a CRC-32 of all before it."""
    words: int
    """How many words of the boot code changed."""


def expected_around(data: bytes, old: BzImage, inside: Inside) -> Around:
    """The bytes around the payload, made from the bzImage `data`, which was read as `old`.

    Raises Unknown if its boot code is not known, or the output moved its tail by what no rule
    gives.
    """
    header = old.header
    code = data[header.code_off : header.code_off + header.syssize * 16]
    payload = header.payload_offset, header.payload_offset + header.payload_length
    boot = read_boot_code(code, payload)
    before = ElfImage.parse(old.vmlinux, old.name)
    link = link_of(before, header.pref_address)
    was = KernelFacts.of(before, header.payload_length, len(old.payload.unpacked), link[0])
    now = KernelFacts.of(inside.kernel, inside.payload_len, inside.unpacked_len, link[0])
    pe = PeHeaders.of(data)
    step = max(_STEP, 1 if pe is None else pe.align(data))
    distance = inside.code_len - len(code)
    _require_least(boot, inside, distance, step)
    words = new_words(boot, NewKernel(was, now, link, distance))
    head, tail = with_words(boot, words)
    new_header = replace(
        header,
        payload_length=inside.payload_len,
        syssize=inside.code_len // 16,
        init_size=max(header.init_size, needed_memory(boot, distance, now)),
        handover_offset=_place(boot, header.handover_offset, distance),
        kernel_info_offset=_place(boot, header.kernel_info_offset, distance),
    )
    return Around(
        _setup(data, header, new_header, pe, boot, distance),
        head,
        header.code_off + boot.text[0] + distance,
        tail,
        zlib.crc32(_as_built(data, header, pe)) == _WHOLE_CRC,
        len(words),
    )


def _require_least(boot: BootCode, inside: Inside, distance: int, step: int) -> None:
    """The tail moves no further than payload and notes need."""
    needed = boot.payload[0] + inside.payload_len + inside.notes_len - boot.text[0]
    least, most = (-(-max(n, 0) // step) * step for n in (needed, needed + _SPARE_LEN))
    if distance % step or not least <= distance <= most:
        raise UnknownBootCode(
            f"its tail moved by {distance:#x}, {least:#x} are needed", boot.text[0]
        )


def _place(boot: BootCode, off: int, distance: int) -> int:
    return off + distance if off >= boot.text[0] else off


def _setup(
    data: bytes,
    was: SetupHeader,
    now: SetupHeader,
    pe: PeHeaders | None,
    boot: BootCode,
    distance: int,
) -> bytes:
    emitted = now.emit()
    setup = data[:HEADER_OFF] + emitted + data[HEADER_OFF + len(emitted) : was.code_off]
    if pe is None:
        return setup
    longer = Longer(
        was.code_off + boot.payload[0],
        was.code_off + boot.text[0],
        distance,
        now.init_size - was.init_size,
    )
    return grown(setup, pe, longer)


def _as_built(data: bytes, header: SetupHeader, pe: PeHeaders | None) -> bytes:
    """The original as its build left it, before it was signed."""
    built = bytearray(data[: header.code_off + header.syssize * 16])
    if pe is not None:
        built[pe.checksum] = bytes(4)
        if pe.has_certificates(data):
            built[pe.certificates] = bytes(8)
    return bytes(built)


def crc_of(data: bytes) -> bytes:
    """The word that Linux's build puts at the end of a file that begins with `data`."""
    return (zlib.crc32(data) ^ _WHOLE_CRC).to_bytes(CRC_LEN, "little")
