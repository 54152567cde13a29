# SPDX-License-Identifier: MIT
"""What may be changed in an output without being found? The closed table, and why it is allowed.

No field of the ELF headers is in it: the proof compares all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from tests.verify.edit import FileEdit
from vmipatch.errors import VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.restore import restore

MANIFEST, NOTE = ".vmi.manifest", ".vmi.restore"
NOT_LOADED = (
    "The section has neither SHF_ALLOC nor a place in a segment. System V ABI, chapter 5, Program "
    "Loading: what a program header does not name is not part of the process image. Linux loads a "
    "kernel by its PT_LOAD headers alone (parse_elf, arch/x86/boot/compressed/misc.c), and a "
    "module's loader keeps sections with SHF_ALLOC (layout_sections, kernel/module/main.c)."
)


@dataclass(frozen=True, slots=True)
class Free:
    """One thing that an output may have in more than one way."""

    what: str
    only_if: str
    """When it is free; else it is refused."""
    source: str
    """Why neither ELF nor Linux looks at it."""
    holds: Callable[[ElfImage, ElfImage], bool]
    """Whether an honest output and a changed one differ in nothing else."""


def _is_padding_alone(honest: ElfImage, changed: ElfImage) -> bool:
    """The manifests differ in the kind of padding, and no site is padded."""
    mine, theirs = (json.loads(image.section_bytes(image.section_by_name[MANIFEST]))
                    for image in (honest, changed))  # fmt: skip
    edit = FileEdit.of(honest)
    is_padded = any(
        record[14] for name in (".vmi.annotation", ".vmi.annotation.init")
        for record in _records(edit.content(name))
    )  # fmt: skip
    return {**mine, "padding": theirs["padding"]} == theirs and not is_padded


def _records(table: bytes) -> list[bytes]:
    return [table[at : at + 16] for at in range(0, len(table), 16)]


def _is_note_alone(honest: ElfImage, changed: ElfImage) -> bool:
    """The files are equal up to the notes, but for the size of the note, and both give one file."""
    note, other = (image.section_by_name[NOTE] for image in (honest, changed))
    at = int.from_bytes(honest.data[32:36], "little") + 40 * note.index + 20
    mine, theirs = bytearray(honest.data[: note.off]), bytearray(changed.data[: other.off])
    mine[at : at + 4] = theirs[at : at + 4]
    try:
        return mine == theirs and restore(honest).data == restore(changed).data
    except VmipatchError:
        return False


FREE = (
    Free("manifest: the kind of padding", "no site is padded", NOT_LOADED, _is_padding_alone),
    Free("restore note: how it is encoded", "it gives the same file, and is written as vmipatch "
         "writes one", NOT_LOADED, _is_note_alone),
)  # fmt: skip


def free_row(honest: ElfImage, changed: bytes) -> str | None:
    """The row of the table that allows a change; None if none does."""
    try:
        image = ElfImage.parse(changed, "changed")
    except VmipatchError:
        return None
    return next((row.what for row in FREE if row.holds(honest, image)), None)
