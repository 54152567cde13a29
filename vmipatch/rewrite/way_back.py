# SPDX-License-Identifier: MIT
"""What must a rewritten bzImage remember to become its input again?"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache

from vmipatch.errors import MalformedImage, VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import emit_list
from vmipatch.image.repack.payload_image import stripped
from vmipatch.restore import (
    Body,
    Frame,
    Gives,
    Noted,
    frame_note,
    listed,
    make_note,
    restore_bzimage,
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


def _kernel_note(
    frame: Frame,
    kernel: ElfImage,
    placement: Placement,
    relocs: tuple[int, ...] | None,
    unpacked: Collection[str],
) -> bytes:
    old = frame.old
    elf = stripped(kernel, unpacked)
    new_list = b"" if relocs is None else emit_list(relocs)
    body = Body.of(ElfImage.parse(elf, kernel.name), len(elf), new_list)
    target = ElfImage.parse(old.vmlinux, old.name)
    note = make_note(target, listed(old), body, placement.resized(target), Gives.INPUT)
    return note.pack()


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
