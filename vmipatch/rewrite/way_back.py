# SPDX-License-Identifier: MIT
"""What must a rewritten bzImage remember to become its input again?"""

from __future__ import annotations

from vmipatch.errors import VmipatchError
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Recipe
from vmipatch.image.reloc_list import emit_list
from vmipatch.image.repack.repack import Notes
from vmipatch.restore import Noted, Wanted, add_note, frame_note, listed, restore_bzimage
from vmipatch.rewrite.placement import Placement


def notes_for(
    data: bytes,
    old: BzImage,
    placement: Placement,
    relocs: tuple[int, ...] | None,
    recipe: Recipe | None,
    whole: bool,
) -> Notes:
    """The notes with which `data`, read as `old`, comes back.

    `relocs` is the relocation list of the rewritten kernel. Without a `recipe` that gives the old
    payload again only the kernel inside comes back, unless the `whole` file shall.
    """
    wanted = Wanted(ElfImage.parse(old.vmlinux, old.name), listed(old))
    new_list = b"" if relocs is None else emit_list(relocs)
    return Notes(
        inside=lambda elf: add_note(elf, wanted, placement.resized(wanted.image), new_list).data,
        behind=lambda made: frame_note(data, old, recipe, whole, made),
    )


def proven(made: bytes, data: bytes, old: BzImage) -> Noted:
    """`made` with what its notes promise, once they were applied.

    Raises VmipatchError if they give something else than `data`, read as `old`, or the kernel
    inside: then the rewriter has a bug.
    """
    start = old.header.code_off + old.header.payload_offset
    payload = data[start : start + old.header.payload_length]
    restored = restore_bzimage(made, old.name, payload)
    if restored.data not in (data, old.vmlinux):
        raise VmipatchError("the notes give another file than the input", file=old.name)
    return Noted(made, restored.gives, restored.sha256, restored.note_len)
