# SPDX-License-Identifier: MIT
"""What does boot code know of its kernel? Lengths, as constants in its code and its data.

Source: arch/x86/boot/compressed/{mkpiggy.c,misc.c} and arch/x86/boot/header.S of Linux.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.repack.boot_code import BootCode, pages
from vmipatch.image.repack.head import Room, unclassified
from vmipatch.image.setup_header import SetupHeader

_EXTRACT_SLACKS = ((32 << 10) + 18, (64 << 10) + 128)
"""How far decompression in place may run ahead, besides 1/4096 (mkpiggy.c: for gzip, later for all
compressions)."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where the kernel is linked."""

    pa: int
    """Its first byte: LOAD_PHYSICAL_ADDR."""
    page_offset: int
    """From physical to virtual addresses."""

    @classmethod
    def of(cls, kernel: ElfImage, header: SetupHeader) -> Link:
        """Link from the headers; before protocol 2.10 only those of the kernel tell it."""
        first = min(kernel.loads, key=lambda segment: segment.pa)
        pa = header.pref_address or first.pa
        return cls(pa, first.va - first.pa)


@dataclass(frozen=True, slots=True)
class Constants:
    """The boot code's facts about the kernel, in bytes."""

    input_len: int
    """The payload: z_input_len."""
    output_len: int
    """The unpacked payload: z_output_len."""
    total_len: int
    """kernel_total_size: from _text to _end."""
    bss_len: int
    """From _text to __bss_start: relocations after it are refused."""
    text_len: int
    """kernel_text_size: from _text to __start_rodata."""
    run_len: int
    """z_run_size of 3.15 to 4.6: from the offset of .bss in the file, as far as memory goes."""

    @classmethod
    def of(cls, kernel: ElfImage, input_len: int, output_len: int, link: Link) -> Constants:
        """The constants that boot code around `kernel` has to hold.

        Raises InputNotUnderstood if the kernel lacks a section.
        """
        sections, start_va = kernel.section_by_name, min(s.va for s in kernel.loads)
        if missing := {".bss", ".rodata", ".text"} - sections.keys():
            raise InputNotUnderstood(
                f"the kernel has no {min(missing)} section, where its boot code expects one",
                file=kernel.name,
                place="section headers",
            )
        # Not the end of the last segment: .modinfo, which follows _end since 6.17, is not packed.
        first = min(kernel.loads, key=lambda segment: segment.va)
        end_va = max(s.end_va for s in kernel.allocated_sections)
        return cls(
            input_len=input_len,
            output_len=output_len,
            total_len=pages(end_va - first.va + first.pa - link.pa),
            bss_len=sections[".bss"].va - start_va,
            text_len=sections[".rodata"].va - start_va,
            run_len=sections[".bss"].off + end_va - sections[".bss"].va,
        )


_LENGTHS = ("input_len", "output_len")
_KNOWN = {
    Room.INIT_SIZE: (*_LENGTHS, "total_len", "bss_len", "text_len"),
    Room.DISTANCE: (*_LENGTHS, "run_len"),
    Room.LENGTHS: _LENGTHS,
}
"""Which constants boot code may hold: the kernel's own are known to it since 4.7."""
_UNALIGNED = _LENGTHS
"""piggy.S does not ask for an alignment."""


@dataclass(frozen=True, slots=True)
class ChangedWord:
    """A word of the boot code (at its old offset) and what it becomes."""

    off: int
    value: int
    reason: str


class Replacements:
    """Old constants to new ones, and which were met."""

    def __init__(self, old: Constants, new: Constants, room: Room) -> None:
        self.names = {getattr(old, name): name for name in _KNOWN[room]}
        self.old, self.new = old, new
        self.found: set[str] = set()

    def change(self, off: int, value: int, *, aligned: bool = True) -> ChangedWord | None:
        """The change of the word `value` at `off` if that is a constant."""
        name = self.names.get(value)
        if name is None or not (aligned or name in _UNALIGNED):
            return None
        self.found.add(name)
        return ChangedWord(off, getattr(self.new, name), name)

    def require_found(self, boot: BootCode) -> None:
        """Raise UnclassifiedReference unless every constant was met that such code must hold.

        Only old code does without the unpacked length. The kernel's lengths are asked for by some
        configurations: KASLR, checks of relocations.
        """
        needed = {"input_len", "output_len"}
        if boot.head.room is not Room.INIT_SIZE:
            needed.remove("output_len")
        if missing := sorted(needed - self.found):
            raise unclassified(
                f"its constants were not found: {', '.join(missing)}", boot.name, boot.text_off
            )


def extract_distance(boot: BootCode, old: Constants, new: Constants) -> int:
    """z_extract_offset for the new kernel, by the rule that gave the old one.

    Raises UnclassifiedReference if no known rule did.
    """
    for slack in _EXTRACT_SLACKS:
        if _extract(old, slack) == boot.head.room_value:
            return _extract(new, slack)
    raise unclassified(
        f"the distance {boot.head.room_value:#x} follows no known rule",
        boot.name,
        boot.head.room_word_off,
    )


def _extract(constants: Constants, slack: int) -> int:
    shrunk = max(constants.output_len - constants.input_len, 0)
    return pages(shrunk + (constants.output_len >> 12) + slack)
