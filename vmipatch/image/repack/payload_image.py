# SPDX-License-Identifier: MIT
"""What does Linux's boot code unpack? A stripped ELF file and the relocation list, in safe places.

The boot code moves each segment inside of the unpacked payload to where it runs, in the order of
the program headers, and reads the relocation list afterwards (parse_elf and handle_relocations in
arch/x86/boot/compressed/misc.c): nothing may be overwritten before it was read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.elf_write import Content, holds_names, write_elf
from vmipatch.image.reloc_list import emit_list
from vmipatch.image.types import SectionKind, Segment

KEPT_PREFIX = ".vmi."
"""Sections that are kept though no segment loads them: what a rewritten kernel says of itself."""
_WORD_LEN = 4


def stripped(image: ElfImage, unpacked: Collection[str] = ()) -> bytes:
    """A kernel as `objcopy -S` leaves it: its segments and the headers of what they load.

    And the sections of vmipatch. Symbols, relocations and debug information go, and the loaded
    sections named in `unpacked`, which leave zeros.
    """
    kept = [
        s
        for s in image.sections
        if s.kind is SectionKind.NULL
        or (s.is_alloc and s.name not in unpacked)
        or s.name.startswith(KEPT_PREFIX)
        or holds_names(image, s)
    ]
    loaded = max(s.off + s.file_len for s in image.loads)
    contents = [Content(replace(s, link=0, info=0), image.section_bytes(s)) for s in kept]
    memory = bytearray(image.data[:loaded])
    for name in unpacked:
        section = image.section_by_name[name]
        memory[section.off : section.off + section.size] = bytes(section.size)
    return write_elf(image, bytes(memory), contents, image.segments)


def payload_image(elf: bytes, relocs: Sequence[int] | None, link_pa: int, name: str) -> bytes:
    """`elf`, zeros as far as the list needs a later place, and the list (if there is one).

    `link_pa` is the address that the segments are linked from. Raises InputNotUnderstood if a
    segment would be moved over one that is still to be moved.
    """
    loads = list(ElfImage.parse(elf, name).loads)
    for index, segment in enumerate(loads):
        for later in loads[index + 1 :]:
            if (
                _target(segment, link_pa) < later.off + later.file_len
                and later.off < _target(segment, link_pa) + segment.file_len
            ):
                raise InputNotUnderstood(
                    "the kernel's own boot code would overwrite a segment before it is moved",
                    file=name,
                    place=f"segment at {later.va:#x}",
                    hint="let vmipatch's own boot code start the kernel: --boot-code own",
                )
    if relocs is None:
        return elf
    length = -(-len(elf) // _WORD_LEN) * _WORD_LEN
    listed = emit_list(relocs)
    for segment in sorted(loads, key=lambda s: s.pa):
        start = _target(segment, link_pa)
        if start < length + len(listed) and length < start + segment.file_len:
            length = -(-(start + segment.file_len) // _WORD_LEN) * _WORD_LEN
    return elf.ljust(length, b"\0") + listed


def _target(segment: Segment, link_pa: int) -> int:
    return segment.pa - link_pa
