# SPDX-License-Identifier: MIT
"""How does a test get boot code of Linux's shape? Linked here, for any payload and any place.

What the code does is of no interest, where its words point is: the same code linked for a longer
payload is what moving the tail must give.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace

from tests.support.elfbuilder import DATA, RODATA, TEXT, ElfBuilder
from vmipatch.image.setup_header import HEADER_OFF, LoadFlag, SetupHeader

LINK_PA = 0x1000000
TEXT_VA, RODATA_VA, DATA_VA, BSS_VA = 0xC1000000, 0xC1040000, 0xC1060000, 0xC1080000
HEAD_LEN = 148
BSS_LEN, STACK_LEN = 0x12000, 0x1000
GDT_LEN, SETUP_SECTS = 32, 3
DATA_ALIGN, PAGE = 512, 4096
KERNEL_INFO_LEN = 16


def small_kernel(added_len: int = 0, bss_len: int = 0x20000, shift: int = 0) -> bytes:
    """A kernel; `added_len` bytes stand in a segment behind it, `shift` moves what is behind .text.

    Some of its bytes do not compress; segments follow each other in the file as in memory.
    """
    builder = ElfBuilder()
    noise = b"".join(
        zlib.crc32(bytes((i & 255, i >> 8))).to_bytes(4, "little") for i in range(4096)
    )
    builder.section(".text", TEXT_VA, noise.ljust(RODATA_VA + shift - TEXT_VA, b"\0"), TEXT)
    builder.section(".rodata", RODATA_VA + shift, noise[::-1].ljust(DATA_VA - RODATA_VA), RODATA)
    builder.section(".data", DATA_VA + shift, b"data".ljust(BSS_VA - DATA_VA, b"\0"), DATA)
    builder.nobits(".bss", BSS_VA + shift, bss_len)
    if added_len:
        end = -(-(BSS_VA + shift + bss_len) // 0x1000) * 0x1000
        builder.section(".vmi.annotation", end, (noise * 9)[:added_len], RODATA)
    return builder.build()


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the boot code holds of a kernel."""

    payload: bytes
    output_len: int
    total_len: int
    bss_len: int
    text_len: int


@dataclass(frozen=True, slots=True)
class Extra:
    """Code and data besides the usual, for one test: what follows the GOT, as parts of `_emit`."""

    text: tuple[bytes | tuple[str, int], ...] = ()
    data: tuple[bytes | tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Linked:
    """Boot code at its place."""

    code: bytes
    text_off: int
    entry_off: int
    """A function of the tail, as the EFI stub has one."""
    info_off: int
    got_off: int
    end_off: int


def link(
    kernel: Kernel, extra: Extra | None = None, was: Linked | None = None, distance: int = 0
) -> Linked:
    """Link around `kernel`; the tail begins behind the payload, or `distance` behind where it was.

    The memory that the code needs ends with a page.
    """
    extra = extra or Extra()
    text_off = -(-(HEAD_LEN + len(kernel.payload)) // 4) * 4
    if was is not None:
        text_off = was.text_off + distance
    names: dict[str, int] = {"start": 0, "payload": HEAD_LEN, "text": text_off}
    names |= {"payload_end": HEAD_LEN + len(kernel.payload)}
    # Twice: what is far is known the second time.
    for _ in range(2):
        text = _text(kernel, names, extra)
        names["rodata"] = -(-(text_off + len(text)) // 32) * 32
        rodata = _rodata(kernel, names, extra)
        names["info"] = names["rodata"] + len(rodata)
        names["data"] = -(-(names["info"] + KERNEL_INFO_LEN) // DATA_ALIGN) * DATA_ALIGN
        names["bss"] = names["data"] + 0x200
        names["ebss"] = names["bss"] + BSS_LEN
        names["got"] = names["end"] = -(-names["ebss"] // PAGE) * PAGE
        if was is not None:
            names["got"] = was.got_off + distance
            names["end"] = was.end_off + -(-distance // PAGE) * PAGE
        names["stack"] = names["ebss"] - 64
    head = _head(names)
    code = head + kernel.payload
    code = code.ljust(text_off, b"\0") + text
    code = code.ljust(names["rodata"], b"\0") + rodata + b"LToP".ljust(KERNEL_INFO_LEN, b"\0")
    code = code.ljust(names["data"], b"\0") + bytes(range(GDT_LEN))
    code = code.ljust(names["bss"], b"\0")
    return Linked(code, text_off, names["extract"], names["info"], names["got"], names["end"])


def _word(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


def _emit(parts: tuple[bytes | tuple[str, int], ...], at: int, names: dict[str, int]) -> bytes:
    """Bytes; ("name", n) is name - GOT + n, ("-name", n) name - here + n, ("=name", n) name + n."""
    out = b""
    for part in parts:
        if isinstance(part, bytes):
            out += part
            continue
        name, addend = part
        base = {"-": at + len(out) + 4, "=": 0}.get(name[0], names.get("got", 0))
        out += _word(names.get(name.lstrip("-="), 0) + addend - base)
    return out


_x = bytes.fromhex


def _head(names: dict[str, int]) -> bytes:
    head = _emit(
        (
            _x("fc fa 8d a6 e8010000 e8 00000000 5a 81 c2"), ("=got", -13),
            _x("8d 82"), ("data", 0), _x("89 40 02 0f 01 10 b8 18000000 8e d8 8e c0 8e d0"),
            _x("66 90 66 90 8d 9a"), ("start", 0), _x("8b 86 30020000 48 01 c3 f7 d0 21 c3 81 fb"),
            _word(LINK_PA), _x("73 05 bb"), _word(LINK_PA), _x("89 dd 03 9e 60020000 81 eb"),
            ("end", 0), _x("8d a3"), ("stack", 0), _x("6a 00 9d 56 8d b2"), ("bss", -4),
            _x("8d bb"), ("bss", -4), _x("b9"), ("=bss", 0), _x("c1 e9 02 fd f3 a5 fc 5e 8d 83"),
            ("data", 0), _x("89 40 02 0f 01 10 8d 83"), ("text", 0), _x("ff e0"),
        ), 0, names,
    )  # fmt: skip
    assert len(head) == HEAD_LEN, len(head)
    return head


def _text(kernel: Kernel, names: dict[str, int], extra: Extra) -> bytes:
    start = _emit(
        (
            _x("31 c0 8d bb"), ("bss", 0), _x("8d 8b"), ("ebss", 0),
            _x("29 f9 c1 e9 02 f3 ab 55 56 e8"), ("-extract", 0), _x("83 c4 18 31 db ff e0 90"),
        ), names["text"], names,
    )  # fmt: skip
    names["extract"] = names["text"] + len(start)
    body = start + _emit((_x("53 e8"), ("-thunk", 0), _x("81 c3")), names["extract"], names)
    body += _word(names.get("got", 0) - names["text"] - len(body) + 2)
    body += _emit((_x("8d 83"), ("payload", 0), _x("80 bb"), ("payload", 3), _x("08 3d")), 0, names)
    body += _word(kernel.total_len) + _x("8d 99") + _word(kernel.bss_len) + _x("25 0000e0ff")
    body += _emit(extra.text, names["text"] + len(body), names) + _x("5b c3")
    names["thunk"] = names["text"] + len(body)
    return body + _x("8b 1c 24 c3")


def _rodata(kernel: Kernel, names: dict[str, int], extra: Extra) -> bytes:
    body = _word(kernel.total_len) + _word(kernel.text_len) + b"nokaslr\0"
    # piggy.S does not align its two words.
    body += b"\0" + _word(len(kernel.payload)) + _word(kernel.output_len) + bytes(3)
    return body + _emit(extra.data, names.get("rodata", 0) + len(body), names)


def bzimage(linked: Linked, kernel: Kernel, front: bytes = b"", **changes: int) -> bytes:
    """A file with that boot code and a CRC; `front` is its beginning, `changes` header fields."""
    header = SetupHeader(
        setup_sects=SETUP_SECTS,
        jump=0x6AEB,
        version=0x020F,
        loadflags=LoadFlag.LOADED_HIGH,
        syssize=len(linked.code) // 16,
        relocatable_kernel=1,
        kernel_alignment=0x200000,
        pref_address=LINK_PA,
        payload_offset=HEAD_LEN,
        payload_length=len(kernel.payload),
        init_size=0x800000,
        handover_offset=linked.entry_off,
        kernel_info_offset=linked.info_off,
    )
    header = replace(header, **changes)
    setup = (front.ljust(HEADER_OFF, b"\0") + header.emit()).ljust(header.code_off, b"\0")
    summed = setup + linked.code[:-4]
    return summed + _word(zlib.crc32(summed) ^ 0xFFFFFFFF)
