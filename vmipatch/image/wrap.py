# SPDX-License-Identifier: MIT
"""How a vmlinux becomes a file that a boot loader starts: a bzImage with boot code of our own.

    file   setup (real mode, 10 KiB) | image
    image  entry.S | payload | segment table | slot.S, place.S, stack

The payload is what Linux puts there, uncompressed: an ELF file (program headers and segments only,
or what else is given) and the relocation list. entry.S moves the image to `stage`, so far up that
each segment lies at or above its place, and the ELF file ends after the kernel does;
copied from there upwards, no byte of a segment is overwritten before it has been read. What is
needed after the copy (list, table, code) follows the ELF file, hence the kernel. The
header's init_size claims everything up to the end of the staged image.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from vmipatch.errors import InputNotUnderstood, MalformedImage, NotSupported
from vmipatch.image.consistency import DAMAGED
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import emit_list
from vmipatch.image.setup_header import (
    HEADER_OFF,
    JUMP_OFF,
    SECTOR_LEN,
    LoadFlag,
    SetupHeader,
    header_end,
)
from vmipatch.image.types import Segment
from vmipatch.isa.assemble import Assembled, assemble_resource
from vmipatch.limits import Limit

LOAD_PA = 0x100000
"""Where every loader can put the image (code32_start)."""
KERNEL_IMAGE_LEN = 512 << 20
"""KERNEL_IMAGE_SIZE of i386: page tables and module space allow no kernel above."""
MIN_ALIGN = 2 << 20
"""The large page of PAE, which a kernel may map itself with; also Linux's usual PHYSICAL_ALIGN."""
INITRD_ADDR_MAX = 0x37FFFFFF
"""Direct-mapped memory of a 3 GiB/1 GiB split: older kernels drop an initrd above it."""
CMDLINE_LEN = 2048
"""COMMAND_LINE_SIZE, with the NUL."""
PROTOCOL = 0x020D
"""2.13. The only news of 2.15, kernel_info, would have nothing to say."""

PAGE_LEN = 4096
ENTRY_LEN = 0x100
PAYLOAD_OFF = ENTRY_LEN
STACK_LEN = 0x400
MAX_SEGMENTS = 64
"""Headers and padding of so many stay within the page between the kernel and the staged tail."""

SETUP_BOOT_PARAMS = 0x1000
SETUP_LEN = 0x2800
"""Setup code and strings, boot_params at SETUP_BOOT_PARAMS, then 2 KiB of stack."""

_PACKAGE = "vmipatch.image.boot"
_ELF_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<8I")
_TABLE_ENTRY = struct.Struct("<4I")


@dataclass(frozen=True, slots=True)
class _Kernel:
    """The parts of a kernel, and where they go."""

    loads: tuple[Segment, ...]
    """In physical order."""
    entry_pa: int
    align: int
    relocs: tuple[int, ...] | None

    @property
    def start_pa(self) -> int:
        return self.loads[0].pa

    @property
    def span(self) -> int:
        """Bytes from the first segment to the end of the last, in whole pages."""
        return _align(max(s.pa + s.mem_len for s in self.loads) - self.start_pa, PAGE_LEN)

    @property
    def follows_loader(self) -> bool:
        """Whether a loader may choose the address.

        It rounds up to a multiple of `align`, entry.S to a multiple counted from the linked
        address: both must mean the same.
        """
        return self.relocs is not None and self.start_pa % self.align == 0


@dataclass(frozen=True, slots=True)
class _Image:
    """The protected-mode part of the file."""

    code: bytes = field(repr=False)
    payload_len: int
    stage_off: int
    """From the start of the kernel to the staged image."""


def wrap(
    image: ElfImage,
    relocs: Sequence[int] | None,
    *,
    kaslr: bool = True,
    align: int | None = None,
    version: str = "vmipatch",
    elf: bytes | None = None,
) -> bytes:
    """A bzImage (boot protocol 2.13) that starts the kernel `image`.

    `relocs` are the linked virtual addresses of the words that move with the kernel, as
    `reloc_list.relocation_list` has them; None for a kernel that runs only where it was linked.
    With `kaslr` the boot code picks a random slot unless the command line says `nokaslr`, `mem=`
    or `memmap=`. `align` is CONFIG_PHYSICAL_ALIGN where it is known (kernel_alignment of the
    original bzImage); the default is 2 MiB, or the alignment of the segments if that is greater.
    `version` is what `file` shows. `elf` is the ELF file to put into it, with the segments of
    `image` and more than those; its length is a multiple of 4.

    Raises InputNotUnderstood if the kernel cannot be started this way, MalformedImage if the
    segments overlap or a relocation lies outside of them.
    """
    kernel = _understand(image, relocs, align)
    packed = _minimal_elf(kernel.loads, image) if elf is None else _with_offsets(elf)
    built = _build_image(kernel, packed, random=kaslr and relocs is not None)
    setup = _build_setup(kernel, built, version)
    return setup + built.code


def _understand(image: ElfImage, relocs: Sequence[int] | None, align: int | None) -> _Kernel:
    """Check everything the boot code relies on."""
    loads = tuple(sorted((s for s in image.loads if s.mem_len), key=lambda s: s.pa))
    if not loads:
        raise NotSupported(
            Limit.WRAP_SEGMENTS,
            "the file has no program segment to load",
            file=image.name,
            place="program headers",
        )
    if len(loads) > MAX_SEGMENTS:
        raise NotSupported(
            Limit.WRAP_SEGMENTS,
            f"the file has more than {MAX_SEGMENTS} program segments",
            file=image.name,
            place="program headers",
        )
    for below, above in pairwise(loads):
        if below.pa + below.mem_len > above.pa:
            raise MalformedImage(
                "two program segments overlap",
                file=image.name,
                place=f"physical {above.pa:#x}",
                hint=DAMAGED,
            )
    if loads[0].pa < LOAD_PA or loads[-1].pa + loads[-1].mem_len > KERNEL_IMAGE_LEN:
        raise NotSupported(
            Limit.WRAP_PLACE,
            "the kernel is not linked between 1 MiB and 512 MiB of physical memory",
            file=image.name,
            place=f"physical {loads[0].pa:#x}",
        )
    if any(s.file_len > s.mem_len for s in loads):
        raise MalformedImage(
            "a segment is longer in the file than in memory",
            file=image.name,
            place="program headers",
            hint=DAMAGED,
        )
    chosen = align or max(MIN_ALIGN, *(s.align for s in loads))
    if chosen & (chosen - 1) or chosen < PAGE_LEN:
        raise InputNotUnderstood(
            f"{chosen:#x} is not a power of two of at least a page",
            file=image.name,
            place="alignment",
            hint="give CONFIG_PHYSICAL_ALIGN of the kernel, or leave it away",
        )
    if relocs is not None:
        _check_relocs(image, loads, relocs)
    listed = None if relocs is None else tuple(sorted(relocs))
    return _Kernel(loads, _entry_pa(image, loads), chosen, listed)


def _check_relocs(image: ElfImage, loads: Sequence[Segment], relocs: Sequence[int]) -> None:
    """One distance between virtual and physical, and every word in the file."""
    if len({s.va - s.pa for s in loads}) != 1:
        raise NotSupported(
            Limit.WRAP_DISTANCE,
            "the segments differ in their distance from virtual to physical",
            file=image.name,
            place="program headers",
        )
    ranges = iter(sorted((s.va, s.va + s.file_len) for s in loads))
    start, end = next(ranges)
    for va in sorted(relocs):
        while va >= end:
            start, end = next(ranges, (1 << 32, 1 << 32))
        if va < start or va + 4 > end:
            raise MalformedImage(
                "a relocation lies outside of the loaded bytes",
                file=image.name,
                place=f"{va:#x}",
                hint="the relocations belong to another file, or were damaged",
            )


def _entry_pa(image: ElfImage, loads: Sequence[Segment]) -> int:
    """The entry point as a physical address: Linux stores it so, others a virtual one."""
    for segment in loads:
        if segment.pa <= image.entry < segment.pa + segment.mem_len:
            return image.entry
    for segment in loads:
        if segment.va <= image.entry < segment.va + segment.mem_len:
            return image.entry - segment.va + segment.pa
    raise MalformedImage(
        "the entry point lies in no segment",
        file=image.name,
        place=f"{image.entry:#x}",
        hint=DAMAGED,
    )


def _with_offsets(elf: bytes) -> tuple[bytes, list[int]]:
    """An ELF file, and where in it the bytes of its segments lie, in physical order."""
    loads = sorted((s for s in ElfImage.parse(elf).loads if s.mem_len), key=lambda s: s.pa)
    return elf, [segment.off for segment in loads]


def _stage_off(kernel: _Kernel, bytes_off: Sequence[int], tail_off: int) -> int:
    """How far after the start of the kernel the image is moved to.

    No segment is copied downwards, and what follows the ELF file lies after the kernel.
    """
    ahead = (
        segment.pa - kernel.start_pa - PAYLOAD_OFF - off
        for segment, off in zip(kernel.loads, bytes_off, strict=True)
    )
    # The page on top keeps the staged image clear of entry.S, which runs while it is moved.
    return _align(max(kernel.span - tail_off, *ahead) + PAGE_LEN, PAGE_LEN)


def _build_image(kernel: _Kernel, packed: tuple[bytes, list[int]], *, random: bool) -> _Image:
    """Lay out and assemble the protected-mode part around the ELF file that is packed."""
    elf, bytes_off = packed
    tail_off = PAYLOAD_OFF + len(elf)
    listed = b"" if kernel.relocs is None else emit_list(kernel.relocs)
    table_off = _align(tail_off + len(listed), 16)
    table = b"".join(
        _TABLE_ENTRY.pack(PAYLOAD_OFF + off, s.pa, s.file_len, s.mem_len - s.file_len)
        for s, off in zip(kernel.loads, bytes_off, strict=True)
    )
    payload = (elf + listed).ljust(table_off - PAYLOAD_OFF, b"\0")
    code_off = table_off + len(table)
    stage_off = _stage_off(kernel, bytes_off, tail_off)
    code = _build_code(kernel, code_off, table_off, tail_off + 4, random=random)
    image_len = code_off + len(code.code)
    entry = _fit(
        assemble_resource(
            _PACKAGE,
            "entry.S",
            symbols={
                "LINKED_PA": kernel.start_pa,
                "ALIGN_MINUS_1": kernel.align - 1,
                "FOLLOW_MASK": -kernel.align & 0xFFFFFFFF if kernel.follows_loader else 0,
                "STAGE_OFF": stage_off,
                "IMAGE_LEN": image_len,
                "PLACE_OFF": code.labels["place"],
            },
        ).code,
        ENTRY_LEN,
    )
    return _Image(entry + payload + table + code.code, len(elf) + len(listed), stage_off)


def _minimal_elf(loads: Sequence[Segment], image: ElfImage) -> tuple[bytes, list[int]]:
    """An ELF file with nothing but the segments, and where in it the bytes of each lie."""
    start = _ELF_HEADER.size + len(loads) * _PROGRAM_HEADER.size
    body = b""
    headers = b""
    offsets: list[int] = []
    for segment in loads:
        body = body.ljust(_align(len(body), 4), b"\0")
        off = start + len(body)
        offsets.append(off)
        headers += _PROGRAM_HEADER.pack(
            segment.kind, off, segment.va, segment.pa,
            segment.file_len, segment.mem_len, segment.flags, 1,
        )  # fmt: skip
        body += image.data[segment.off : segment.off + segment.file_len]
    header = _ELF_HEADER.pack(
        b"\x7fELF\x01\x01\x01", 2, 3, 1, image.entry, _ELF_HEADER.size, 0, 0,
        _ELF_HEADER.size, _PROGRAM_HEADER.size, len(loads), 0, 0, 0,
    )  # fmt: skip
    return header + headers + body, offsets


def _build_code(
    kernel: _Kernel, code_off: int, table_off: int, list_off: int, *, random: bool
) -> Assembled:
    """slot.S, place.S and a stack after them, linked at their offsets in the image.

    The whole has a fixed length, because slot.S must know the length of the image.
    """
    length = 2 * PAGE_LEN // 4
    image_len = code_off + length
    slot = assemble_resource(
        _PACKAGE,
        "slot.S",
        code_off,
        symbols={
            "ALIGN": kernel.align,
            "SPAN": kernel.span,
            "LAST_SLOT": KERNEL_IMAGE_LEN - kernel.span,
            "IMAGE_LEN": image_len,
            "CMDLINE_LEN": CMDLINE_LEN,
        },
    )
    first = kernel.loads[0]
    place = assemble_resource(
        _PACKAGE,
        "place.S",
        code_off + len(slot.code),
        symbols={
            "STACK_TOP": image_len,
            "TABLE_OFF": table_off,
            "SEGMENTS": len(kernel.loads),
            "LIST_OFF": list_off,
            "LIST_COUNT": len(kernel.relocs or ()),
            "LINKED_PA": kernel.start_pa,
            "ENTRY_PA": kernel.entry_pa,
            "PA_MINUS_VA": (first.pa - first.va) & 0xFFFFFFFF,
            "RANDOM": int(random),
            "choose_slot": slot.labels["choose_slot"],
        },
    )
    code = _fit(slot.code + place.code, length - STACK_LEN) + bytes(STACK_LEN)
    return Assembled(code_off, code, slot.labels | place.labels)


def _build_setup(kernel: _Kernel, built: _Image, version: str) -> bytes:
    """The real-mode part: header, code, version string, room for boot_params and stack."""
    end = header_end(PROTOCOL)
    code = assemble_resource(
        _PACKAGE,
        "setup.S",
        end,
        symbols={
            "HEADER": HEADER_OFF,
            "HEADER_END": end,
            "BOOT_PARAMS": SETUP_BOOT_PARAMS,
            "STACK_TOP": SETUP_LEN,
        },
    ).code
    claimed = built.stage_off + len(built.code)
    if not kernel.follows_loader:
        claimed += kernel.start_pa - LOAD_PA  # some loaders count from code32_start, GRUB does
    header = SetupHeader(
        setup_sects=SETUP_LEN // SECTOR_LEN - 1,
        root_flags=1,
        syssize=len(built.code) // 16,
        vid_mode=0xFFFF,
        jump=0xEB | (end - JUMP_OFF - 2) << 8,
        version=PROTOCOL,
        start_sys_seg=0x1000,
        kernel_version=end + len(code) - JUMP_OFF,
        loadflags=LoadFlag.LOADED_HIGH,
        setup_move_size=0x8000,
        code32_start=LOAD_PA,
        initrd_addr_max=INITRD_ADDR_MAX,
        kernel_alignment=kernel.align,
        relocatable_kernel=int(kernel.follows_loader),
        min_alignment=kernel.align.bit_length() - 1,
        cmdline_size=CMDLINE_LEN - 1,
        payload_offset=PAYLOAD_OFF,
        payload_length=built.payload_len,
        pref_address=kernel.start_pa,
        init_size=_align(claimed, PAGE_LEN),
    )
    # Started as a boot sector, it hands back to the BIOS: int 0x18.
    head = b"\xcd\x18".ljust(HEADER_OFF, b"\0") + header.emit()
    strings = version.encode("ascii", "replace")[:127] + b"\0"
    return _fit(head + code + strings, SETUP_BOOT_PARAMS).ljust(SETUP_LEN, b"\0")


def _fit(code: bytes, length: int) -> bytes:
    """`code` padded to `length`, which it must not exceed."""
    assert len(code) <= length, f"{len(code)} bytes in a place of {length}"
    return code.ljust(length, b"\0")


def _align(value: int, unit: int) -> int:
    """`value` rounded up to a multiple of `unit`."""
    return -(-value // unit) * unit
