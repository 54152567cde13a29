# SPDX-License-Identifier: MIT
"""Which lengths of its kernel does boot code hold, and what memory does the header ask for?

Source: arch/x86/boot/compressed/{mkpiggy.c,misc.c}, arch/x86/boot/header.S (INIT_SIZE) of Linux.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmipatch.image.elf import ElfImage
from vmipatch.verify.static.bzimage.boot_code import PAGE, BootCode, Room, UnknownBootCode

_SLACKS = ((32 << 10) + 18, (64 << 10) + 128)
"""mkpiggy.c: how far ahead of its input decompression may write, gzip's and later every one's."""
_EXTRA = 128 << 10
"""header.S, ZO_z_extra_bytes."""
_OF_ROOM = {
    Room.INIT_SIZE: ("input_len", "output_len", "total_len", "bss_len", "text_len"),
    Room.DISTANCE: ("input_len", "output_len", "run_len"),
    Room.LENGTHS: ("input_len", "output_len"),
}
"""Which of them boot code of each time holds."""
_UNALIGNED = ("input_len", "output_len")
"""piggy.S does not align its words."""


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """Lengths in bytes, as the boot code of a kernel holds them."""

    input_len: int
    """The payload."""
    output_len: int
    """The payload, unpacked."""
    total_len: int
    """From the first byte of the kernel to its _end, in pages."""
    bss_len: int
    """Up to __bss_start."""
    text_len: int
    """Up to __start_rodata."""
    run_len: int
    """In memory, counted from the file offset of .bss."""

    @classmethod
    def of(cls, kernel: ElfImage, input_len: int, output_len: int, link_pa: int) -> KernelFacts:
        """Those of `kernel`, linked at `link_pa`. Raises Unknown if it lacks a section."""
        named = kernel.section_by_name
        for name in (".text", ".rodata", ".bss"):
            if name not in named:
                raise UnknownBootCode(f"its kernel has no {name}", 0)
        loads = list(kernel.loads)
        lowest = min(loads, key=lambda s: s.va)
        end_va = max(s.end_va for s in kernel.allocated_sections)
        bss = named[".bss"]
        return cls(
            input_len,
            output_len,
            whole_pages(end_va - lowest.va + lowest.pa - link_pa),
            bss.va - lowest.va,
            named[".rodata"].va - lowest.va,
            bss.off + end_va - bss.va,
        )


def whole_pages(length: int) -> int:
    """`length`, rounded up to pages."""
    return -(-length // PAGE) * PAGE


def link_of(kernel: ElfImage, pref_address: int) -> tuple[int, int]:
    """Physical address that the kernel is linked from, and the distance to its virtual ones.

    A header before protocol 2.10 does not tell the first.
    """
    first = min(kernel.loads, key=lambda s: s.pa)
    pa = pref_address or first.pa
    return pa, first.va - first.pa


@dataclass(frozen=True, slots=True)
class Lengths:
    """From the lengths of the old kernel to those of the new one."""

    unaligned: Mapping[int, int] = field(hash=False)
    aligned: Mapping[int, int] = field(hash=False)
    """Of words of data, only at multiples of four."""

    @classmethod
    def of(cls, old: KernelFacts, new: KernelFacts, room: Room) -> Lengths:
        """Raises Unknown if one number had two meanings."""
        anywhere: dict[int, int] = {}
        aligned: dict[int, int] = {}
        for name in _OF_ROOM[room]:
            was, now = getattr(old, name), getattr(new, name)
            if anywhere.get(was, aligned.get(was, now)) != now:
                raise UnknownBootCode(f"{was:#x} is more than one length of its kernel", 0)
            (anywhere if name in _UNALIGNED else aligned)[was] = now
        return cls(anywhere, aligned)

    def __call__(self, value: int, off: int = 0) -> int | None:
        """The new length for the word `value`, at `off` of data; None if it is not a length."""
        found = self.unaligned.get(value)
        return self.aligned.get(value) if found is None and off % 4 == 0 else found


def new_distance(boot: BootCode, old: KernelFacts, new: KernelFacts) -> int:
    """How far after the start of the new kernel the copy lies, by the rule for the old one.

    Raises Unknown if none of the known rules gave that.
    """
    for slack in _SLACKS:
        if _distance(old, slack) == boot.room_at.value:
            return _distance(new, slack)
    raise UnknownBootCode(
        f"the distance {boot.room_at.value:#x} follows no known rule", boot.room_at.off
    )


def _distance(facts: KernelFacts, slack: int) -> int:
    shrinks = max(facts.output_len - facts.input_len, 0)
    return whole_pages(shrinks + (facts.output_len >> 12) + slack)


def needed_memory(boot: BootCode, distance: int, new: KernelFacts) -> int:
    """Bytes from the start of the kernel that must be free; the header may ask for more.

    Two things have to fit: the payload, unpacked in place before the boot code's end; and after
    the last segment of the kernel, the tail that moves it there.
    """
    ahead = new.output_len - new.input_len + (new.output_len >> 8) + _EXTRA
    end = boot.end + whole_pages(distance)
    unpacking = end + whole_pages(max(ahead, _EXTRA))
    moving = new.total_len + whole_pages(end - boot.text[0] - distance)
    return whole_pages(max(unpacking, moving))
