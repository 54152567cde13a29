# SPDX-License-Identifier: MIT
"""A bzImage in, the same kind of file out: the kernel inside is rewritten with its debug twin.

The boot code stays if each of its references is understood. Else vmipatch's own starts the kernel,
and what that costs is reported.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from vmipatch.choices import BootCodeChoice
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.linked import LinkedKernel
from vmipatch.image.packing import Compression, Recipe, find_recipe, likely_recipe
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.repack import pe_header
from vmipatch.image.repack.repack import repack
from vmipatch.image.twin import require_twin
from vmipatch.image.wrap import wrap
from vmipatch.restore import Frame, Noted, without_note
from vmipatch.rewrite.rewrite import RewriteOptions, RewrittenImage, rewrite
from vmipatch.rewrite.way_back import elf_with_note, notes_for, proven
from vmipatch.steps import step


@dataclass(frozen=True)
class RewrittenBzImage:
    """The new file, and how it came about."""

    data: bytes = field(repr=False)
    kernel: RewrittenImage = field(repr=False)
    """The rewritten vmlinux inside, with its symbols."""
    boot_code: BootCodeChoice
    """KEEP or OWN."""
    recipe: Recipe
    """How the payload is packed."""
    repeats: bool
    """Whether the recipe gives the original stream again, bit for bit."""
    losses: tuple[str, ...]
    """The parts of the original that the new file lacks."""
    noted: Noted | None
    """The file that `vmipatch restore` gives back; None if nothing."""


def rewrite_bzimage(
    data: bytes,
    bzimage: BzImage,
    linked: LinkedKernel | ElfImage,
    options: RewriteOptions | None = None,
    choice: BootCodeChoice = BootCodeChoice.AUTO,
) -> RewrittenBzImage:
    """Rewrite the kernel in `data`, which was read as `bzimage`, by what `linked` tells of it.

    That is its debug twin, or what was recovered of the kernel itself.
    The recipe is looked for while the kernel is rewritten: compressors run beside Python. Raises
    InputNotUnderstood if `linked` is another kernel, and what rewrite and repack raise.
    """
    linked = LinkedKernel.of(linked)
    twin = require_twin(bzimage, linked.image)
    unpacked = twin.unpacked
    options = options or RewriteOptions()
    with ThreadPoolExecutor(1) as pool:
        payload = bzimage.payload
        search = pool.submit(find_recipe, payload.compression, payload.stream, payload.unpacked)
        kernel = rewrite(linked, replace(options, keep_original=False))
        with step("finding out how the payload was packed"):
            found = search.result()
    recipe = found or likely_recipe(payload.compression, payload.stream)
    image = without_note(ElfImage.parse(kernel.data, linked.image.name))
    relocs = None
    if bzimage.relocs is not None:
        relocs = relocation_list(image, Relocations.of(image), with_notes=twin.lists_notes)
    frame = Frame(data, bzimage, found, options.keep_original, linked.image)
    if choice is not BootCodeChoice.OWN:
        try:
            notes = notes_for(frame, image, kernel.placement, relocs, unpacked)
            with step("packing"):
                made = repack(data, bzimage, image, relocs, recipe, notes, unpacked)
        except InputNotUnderstood as error:
            if choice is BootCodeChoice.KEEP:
                raise
            reason = f"the kernel's own boot code: {error.message} ({error.place})"
        else:
            with step("checking the way back"):
                noted = proven(made.data, frame)
            return RewrittenBzImage(
                made.data, kernel, BootCodeChoice.KEEP, recipe, found is not None, made.dropped,
                noted,
            )  # fmt: skip
    else:
        reason = "the kernel's own boot code, as asked for"
    with step("packing"):
        elf = elf_with_note(frame, image, kernel.placement, relocs, unpacked)
        align, version = bzimage.header.kernel_alignment, bzimage.version
        own = wrap(image, relocs, align=align, version=version, elf=elf)
    with step("checking the way back"):
        noted = proven(own, frame)
    losses = (reason, *_lost_by_wrapping(data, payload.compression))
    return RewrittenBzImage(
        own, kernel, BootCodeChoice.OWN, recipe, found is not None, losses, noted
    )


def _lost_by_wrapping(data: bytes, compression: Compression) -> tuple[str, ...]:
    """The parts that our own boot code does not have."""
    losses = ["the way back to the bzImage: `vmipatch restore` gives the kernel in it"]
    if compression is not Compression.NONE:
        losses.append(f"{compression.label} compression")
    if pe_header.is_pe(data):
        losses.append("the EFI stub")
    if pe_header.certificates(data)[1]:
        losses.append("the signature")
    return tuple(losses)
