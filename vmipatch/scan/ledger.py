# SPDX-License-Identifier: MIT
"""What became of every byte of code, and of every sensitive instruction."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from vmipatch.image.types import Section
from vmipatch.isa.decode import InstructionStream, Shape
from vmipatch.scan.site import Disposition, Reason, Site


@dataclass(frozen=True, slots=True)
class SectionAccount:
    """The bytes of one executable section, each counted once."""

    name: str
    start_va: int
    end_va: int
    code_len: int
    padding_len: int
    unknown_len: int
    """Bytes that decode as nothing."""
    instructions: int

    @classmethod
    def of(cls, section: Section, stream: InstructionStream) -> SectionAccount:
        """Count the bytes of `stream`."""
        lens = stream.lens.astype(np.int64)
        unknown = int(lens[stream.undecodable].sum())
        padding = int(lens[stream.shapes != Shape.CODE].sum())
        return cls(
            section.name,
            section.va,
            section.end_va,
            int(lens.sum()) - padding - unknown,
            padding,
            unknown,
            len(stream) - len(stream.undecodable),
        )


@dataclass(frozen=True)
class Ledger:
    """The account of all sections and sites of an image."""

    sections: tuple[SectionAccount, ...]
    sites: tuple[Site, ...]

    def census(self, section: int | None = None) -> Counter[str]:
        """Sensitive instructions by class (each of a fused group counts), all sections or one."""
        return Counter(
            form.kind
            for site in self.sites
            if section is None or site.section == section
            for form in site.forms
        )

    def dispositions(self) -> Counter[tuple[Disposition, Reason]]:
        """Sites by what became of them and why."""
        return Counter((site.disposition, site.reason) for site in self.sites)
