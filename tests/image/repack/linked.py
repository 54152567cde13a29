# SPDX-License-Identifier: MIT
"""How does a test get boot code of Linux's shapes? Linked here, for any payload and any place.

What the code does is of no interest, where its words point is: the same code linked for a longer
payload is what moving the tail must give.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, replace

from tests.image.repack.forms import GNU, LINK_PA, BootCodeForm, Extra, FormFacts, word
from tests.support.elfbuilder import DATA, RODATA, TEXT, ElfBuilder
from vmipatch.image.setup_header import HEADER_OFF, LoadFlag, SetupHeader

TEXT_VA, RODATA_VA, DATA_VA, BSS_VA = 0xC1000000, 0xC1040000, 0xC1060000, 0xC1080000
BSS_LEN, SETUP_SECTS = 0x12000, 3
DATA_ALIGN, PAGE = 512, 4096
KERNEL_INFO_LEN = 16


def small_kernel(added_len: int = 0, bss_len: int = 0x20000, shift: int = 0) -> bytes:
    """A kernel; `added_len` bytes stand in a segment after it, `shift` moves what is after .text.

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


def noisy_kernel(added_len: int = 0) -> bytes:
    """A kernel that hardly compresses: its unpacked length is an offset in the boot code's tail."""
    noise = hashlib.shake_128(b"noise").digest(BSS_VA - TEXT_VA - 0x8000)
    builder = ElfBuilder()
    builder.section(".text", TEXT_VA, noise[: RODATA_VA - TEXT_VA], TEXT)
    builder.section(".rodata", RODATA_VA, noise[RODATA_VA - TEXT_VA : DATA_VA - TEXT_VA], RODATA)
    data = noise[DATA_VA - TEXT_VA :].ljust(BSS_VA - DATA_VA, b"\0")
    builder.section(".data", DATA_VA, data, DATA)
    builder.nobits(".bss", BSS_VA, 0x1000)
    if added_len:
        builder.section(".vmi.annotation", BSS_VA + 0x1000, noise[:added_len], RODATA)
    return builder.build()


@dataclass(frozen=True, slots=True)
class Linked:
    """Boot code at its place."""

    code: bytes
    payload_off: int
    text_off: int
    entry_off: int
    """The entry of an EFI stub, as the header names it."""
    info_off: int
    got_off: int
    end_off: int
    tables: tuple[int, int] = (0, 0)
    """The range of tables for a dynamic linker."""


def link(
    kernel: FormFacts,
    extra: Extra | None = None,
    was: Linked | None = None,
    distance: int = 0,
    form: BootCodeForm = GNU,
) -> Linked:
    """Link around `kernel`; the tail begins after the payload, or `distance` after its old place.

    The memory that the code needs ends with a page.
    """
    extra = extra or Extra()
    names: dict[str, int] = {"start": 0, "text": 0, "distance": form.distance(kernel), "rodata": 0}
    # Three times: what is far is known then.
    for _ in range(3):
        head = form.head(kernel, names)
        names["payload"] = len(head)
        names["payload_end"] = len(head) + len(kernel.payload)
        names["text"] = -(-names["payload_end"] // 4) * 4
        if was is not None:
            names["text"] = was.text_off + distance
        entry = form.entry(kernel, names)
        text = entry + form.functions(kernel, names, len(entry), extra)
        names["etext"] = names["text"] + len(text)
        names["rodata"] = -(-names["etext"] // 32) * 32
        rodata = form.rodata(kernel, names, extra)
        names["info"] = names["rodata"] + len(rodata)
        names["data"] = -(-(names["info"] + KERNEL_INFO_LEN) // DATA_ALIGN) * DATA_ALIGN
        data = form.data(names)
        names["bss"] = names["data"] + 0x200
        names["ebss"] = names["bss"] + BSS_LEN
        names["end"] = -(-names["ebss"] // PAGE) * PAGE
        if was is not None:
            names["end"] = was.end_off + -(-distance // PAGE) * PAGE
        names["stack"] = names["ebss"] - 64
        names["got"] = form.got(names, None if was is None else was.got_off + distance)
    code = (head + kernel.payload).ljust(names["text"], b"\0") + text
    code = code.ljust(names["rodata"], b"\0") + rodata + b"LToP".ljust(KERNEL_INFO_LEN, b"\0")
    code = code.ljust(names["data"], b"\0") + data
    code = code.ljust(names["bss"], b"\0")
    return Linked(
        code, len(head), names["text"], names.get("stub", names["extract"]), names["info"],
        names["got"], names["end"], (names.get("tables", 0), names.get("tables_end", 0)),
    )  # fmt: skip


def bzimage(linked: Linked, kernel: FormFacts, front: bytes = b"", **changes: int) -> bytes:
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
        payload_offset=linked.payload_off,
        payload_length=len(kernel.payload),
        init_size=0x800000,
        handover_offset=linked.entry_off,
        kernel_info_offset=linked.info_off,
    )
    header = replace(header, **changes)
    setup = (front.ljust(HEADER_OFF, b"\0") + header.emit()).ljust(header.code_off, b"\0")
    summed = setup + linked.code[:-4]
    return summed + word(zlib.crc32(summed) ^ 0xFFFFFFFF)
