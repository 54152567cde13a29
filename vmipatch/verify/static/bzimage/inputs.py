# SPDX-License-Identifier: MIT
"""What is read of a rewritten bzImage and of its original before anything is proven?"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from vmipatch.errors import VmipatchError
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.twin import Twin, require_twin
from vmipatch.restore import Note, WithoutNote, Written, body_inside, note_inside, read_notes
from vmipatch.verify.static.bzimage.authenticode import cut_signatures
from vmipatch.verify.static.bzimage.moves import RangeMoves
from vmipatch.verify.static.bzimage.witness import Unlike, WitnessParts, witness
from vmipatch.verify.static.manifest import read_manifest
from vmipatch.verify.static.rules import PAYLOAD, WAY_BACK
from vmipatch.verify.static.verdict import Report

INSIDE = "payload"
NOTES = "after the payload"


@dataclass(frozen=True)
class Shipped:
    """A rewritten bzImage and the one that it was made from."""

    original: bytes = field(repr=False)
    original_name: str
    output: bytes = field(repr=False)
    name: str
    linked: ElfImage = field(repr=False)
    """The kernel in the original, with symbols and relocations."""

    @cached_property
    def report(self) -> Report:
        """Findings of the reading."""
        return Report(hex)

    @cached_property
    def unsigned(self) -> bytes:
        """The output without signatures that were put on it later; they are noted."""
        return cut_signatures(self.output, self.report)

    @cached_property
    def old(self) -> BzImage:
        """The original. Raises as BzImage.parse does."""
        return BzImage.parse(self.original, self.original_name)

    @cached_property
    def new(self) -> BzImage:
        """The output. Raises as BzImage.parse does."""
        return BzImage.parse(self.unsigned, self.name)

    @cached_property
    def twin(self) -> Twin:
        """The parts that original and linked kernel share. Raises InputNotUnderstood."""
        return require_twin(self.old, self.linked)

    @cached_property
    def body(self) -> WithoutNote:
        """The kernel in the output. Raises MalformedImage."""
        return body_inside(self.new)

    @cached_property
    def notes(self) -> Written | None:
        """The notes in the output; None, and a finding, if there are none to read.

        Raises as `new` does.
        """
        new = self.new
        try:
            return read_notes(self.unsigned, new)
        except VmipatchError as error:
            self.report.add(WAY_BACK, 0, error.message, NOTES)
            return None

    @cached_property
    def note_inside(self) -> bytes | None:
        """The packed note in the kernel, if vmipatch's own boot code is around it."""
        return note_inside(self.new)

    @cached_property
    def kernel_note(self) -> Note | None:
        """The note for the kernel; None, and a finding, if it cannot be read."""
        packed = self.note_inside
        if packed is None and self.notes is not None:
            packed = self.notes.kernel_note
        try:
            return None if packed is None else Note.unpack(packed, self.name)
        except VmipatchError as error:
            self.report.add(WAY_BACK, 0, error.message, NOTES)
            return None

    @cached_property
    def relocs(self) -> tuple[int, ...] | None:
        """The relocation list that the witness calls for; None if the original has none.

        Raises as `witness` does, and MalformedImage.
        """
        if self.witness is None or self.old.relocs is None:
            return None
        found = Relocations.of(self.witness)
        return relocation_list(self.witness, found, with_notes=self.twin.lists_notes)

    @cached_property
    def witness(self) -> ElfImage | None:
        """The kernel in the output as a vmlinux; None, and a finding, if it is too unlike.

        Raises InputNotUnderstood if original and linked kernel are not the same.
        """
        unpacked, note = self.twin.unpacked, self.kernel_note
        if note is None:
            return None
        try:
            old = ElfImage.parse(self.old.vmlinux, self.original_name)
            moves = RangeMoves.of(old, self.linked, self.body, note)
            manifest = read_manifest(self.body.image, Report(hex))
            parts = WitnessParts(
                self.linked, self.body.image, moves, manifest, self.new.relocs or (), unpacked
            )
            return witness(parts)
        except Unlike as error:
            self.report.add(PAYLOAD, 0, str(error), INSIDE)
        except VmipatchError as error:
            self.report.add(PAYLOAD, 0, error.message, INSIDE)
        return None
