# SPDX-License-Identifier: MIT
"""What is known of a kernel before it is relinked? Its symbols, its references, its doubts."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vmipatch.image.elf import ElfImage
from vmipatch.image.trim import without_debug


class ReferencesFrom(enum.Enum):
    """Where the knowledge of a kernel's references comes from."""

    RELOCATIONS = "linked"
    """The relocations of the file: every reference is known."""
    RECOVERED = "recovered"
    """A relocation list and the code itself: some references are in doubt."""


@dataclass(frozen=True, slots=True)
class LinkedKernel:
    """A kernel with symbols and relocations, its own or recovered ones."""

    image: ElfImage
    source: ElfImage
    """The kernel as it was found in the file; `image` itself if nothing had to be recovered."""
    references_from: ReferencesFrom = ReferencesFrom.RELOCATIONS
    fixed: tuple[tuple[int, int], ...] = ()
    """Address ranges of code that must not move (half-open; empty ones are single addresses)."""

    @classmethod
    def complete(cls, image: ElfImage) -> LinkedKernel:
        """A kernel that has symbols and relocations of its own."""
        return cls(image, image)

    @classmethod
    def of(cls, kernel: ElfImage | LinkedKernel) -> LinkedKernel:
        """`kernel` itself; an image counts as complete."""
        return cls.complete(kernel) if isinstance(kernel, ElfImage) else kernel

    @property
    def is_recovered(self) -> bool:
        """Whether symbols and relocations had to be recovered."""
        return self.references_from is ReferencesFrom.RECOVERED

    def without_debug(self) -> LinkedKernel:
        """The same without debug sections, nine tenths of a distribution's vmlinux."""
        image = without_debug(self.image)
        source = image if self.source is self.image else without_debug(self.source)
        return LinkedKernel(image, source, self.references_from, self.fixed)
