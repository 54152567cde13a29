# SPDX-License-Identifier: MIT
"""What must a rewritten bzImage remember to become its input again?"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cache

from vmipatch.errors import MalformedImage, VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import emit_list
from vmipatch.image.repack.payload_image import stripped
from vmipatch.restore import (
    Frame,
    Gives,
    Noted,
    WithoutNote,
    frame_note,
    listed,
    make_note,
    restore_bzimage,
    with_note,
)
from vmipatch.rewrite.placement import Placement


def notes_for(
    frame: Frame,
    kernel: ElfImage,
    placement: Placement,
    relocs: tuple[int, ...] | None,
    unpacked: Collection[str],
) -> Callable[[bytes], bytes]:
    """From the new bzImage to the notes with which that of `frame` comes back.

    `relocs` is the relocation list of the rewritten `kernel`, and `unpacked` names its loaded
    sections that are not packed.
    """
    inside = cache(lambda: _kernel_note(frame, kernel, placement, relocs, unpacked))
    return lambda new: frame_note(frame, inside(), new)


def elf_with_note(
    frame: Frame,
    kernel: ElfImage,
    placement: Placement,
    relocs: tuple[int, ...] | None,
    unpacked: Collection[str],
) -> bytes:
    """The rewritten `kernel` as it is packed, with the note that gives the kernel of `frame` back.

    For a bzImage whose boot code is not the original's: there a note for the file has no place.
    """
    note = _kernel_note(frame, kernel, placement, relocs, unpacked, Gives.PAYLOAD)
    return with_note(ElfImage.parse(stripped(kernel, unpacked), kernel.name), note)


def _kernel_note(
    frame: Frame,
    kernel: ElfImage,
    placement: Placement,
    relocs: tuple[int, ...] | None,
    unpacked: Collection[str],
    gives: Gives = Gives.INPUT,
) -> bytes:
    old = frame.old
    elf = stripped(kernel, unpacked)
    new_list = b"" if relocs is None else emit_list(relocs)
    body = WithoutNote.of(ElfImage.parse(elf, kernel.name), len(elf), new_list)
    target = with_sections(ElfImage.parse(old.vmlinux, old.name), frame.linked)
    note = make_note(target, listed(old), body, placement.resized(target), gives)
    return note.pack()


def with_sections(target: ElfImage, linked: ElfImage) -> ElfImage:
    """The kernel of a bzImage, with section headers if the build left it none.

    `wrap` keeps segments alone. The sections of `linked`, the same kernel, tell where they lie.
    """
    if target.sections:
        return target
    found = []
    for section in linked.allocated_sections:
        holders = [s for s in target.loads if s.va <= section.va < s.va + max(s.file_len, 1)]
        if section.has_bytes and holders:
            off = section.va - holders[0].va + holders[0].off
            found.append(replace(section, off=off))
    return replace(target, sections=tuple(found), section_by_name={s.name: s for s in found})


def proven(made: bytes, frame: Frame) -> Noted:
    """`made` with what its notes promise, once they were applied.

    Raises VmipatchError if they give something else than the bzImage of `frame` or the kernel
    inside: then the rewriter has a bug.
    """
    old = frame.old
    start = old.header.code_off + old.header.payload_offset
    payload = frame.data[start : start + old.header.payload_length]
    try:
        restored = restore_bzimage(made, old.name, payload)
    except MalformedImage as error:
        raise VmipatchError("the notes give another file than the input", file=old.name) from error
    return Noted(made, restored.gives, restored.sha256, restored.note_len)
