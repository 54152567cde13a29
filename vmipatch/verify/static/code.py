# SPDX-License-Identifier: MIT
"""What code do both files have, before any instruction is paired with another?"""

from __future__ import annotations

from dataclasses import dataclass

from vmipatch.image.elf import ElfImage
from vmipatch.image.kept import Kept
from vmipatch.image.relocations import Relocations
from vmipatch.tables.table import Role, TableName, Tables
from vmipatch.verify.static.bodies import Bodies, read_bodies
from vmipatch.verify.static.chunks import Chunks, correspond
from vmipatch.verify.static.kept import kept_of
from vmipatch.verify.static.side import I64, UD0, Landmarks, Side
from vmipatch.verify.static.table_facts import copied_branches
from vmipatch.verify.static.verdict import Report


@dataclass(frozen=True, slots=True, eq=False)
class CodePair:
    """The code of both files, decoded and cut into chunks."""

    chunks: Chunks
    left: Side
    """The original."""
    right: Side
    """The output, but for the sections that were added."""
    marks: Landmarks
    """Where the original's decoding begins anew."""
    kept: Kept
    """Ranges of the original that are kept byte for byte."""
    kept_there: Kept
    """The same in the output."""
    has_short_traps: bool
    """Whether some ud0 of the original has no ModRM byte."""
    bodies: Bodies

    @classmethod
    def of(
        cls,
        original: ElfImage,
        output: ElfImage,
        tables: Tables,
        inner: I64,
        keep: tuple[str, ...],
        report: Report,
    ) -> CodePair:
        """Decode both; `inner` are labels of the original that name parts of instructions, `keep`
        what the manifest says is kept.

        Reports chunks that are lost (VP002), and records that are not of whole code, cannot be
        read or overlap (VP060, VP062, VP064).
        """
        chunks = correspond(original, output, inner, report)
        indexes = {s.index for s in original.executable_sections}
        sections = [s for s in output.executable_sections if s.index in indexes]
        kept, kept_there = (kept_of(image, keep, report) for image in (original, output))
        traps = _short_traps(original, tables)
        marks = Landmarks.of(original, chunks.o_va, traps, kept, copied_branches(tables))
        left = Side.of(original, original.executable_sections, marks, relocated_places(original))
        there = Landmarks.of(output, chunks.p_va, (), kept_there)
        right = Side.of(output, sections, there, relocated_places(output))
        bodies = read_bodies(output, right, report)
        return cls(chunks, left, right, marks, kept, kept_there, bool(traps), bodies)

    def marks_of_output(self) -> Landmarks:
        """Where another decoder begins anew in the output.

        If a ud0 of the original has no ModRM byte, then what is a ud0 in the output must be the
        image of one, and has as many bytes.
        """
        images = self.right.beginning_with(UD0) if self.has_short_traps else ()
        return Landmarks.of(self.right.image, self.chunks.p_va, images, self.kept_there)


def relocated_places(image: ElfImage) -> I64:
    """Addresses of the relocated words of a file."""
    places: I64 = Relocations.of(image).entries["va"].astype("i8")
    return places


def _short_traps(image: ElfImage, tables: Tables) -> list[int]:
    """Each ud0 that the bug table names: it is a WARN(), and has no ModRM byte."""
    bugs = tables.places(TableName.BUG_TABLE, Role.INSTRUCTION)["va"].tolist()
    return [va for va in bugs if image.read(va, len(UD0)) == UD0]
