# SPDX-License-Identifier: MIT
"""How does a vmlinux become a bzImage? With vmipatch's own boot code, and its relocation list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from vmipatch.files.file import sha256_of
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.wrap import wrap
from vmipatch.names import base_name

SCHEMA: Final = "vmipatch.wrap/1"


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A bzImage around a kernel."""

    data: bytes = field(repr=False)
    kaslr: bool
    """Whether its boot code chooses where the kernel runs."""

    @property
    def sha256(self) -> str:
        """Of the file, in hexadecimal."""
        return sha256_of(self.data)

    def report(self, kernel: str, output: str) -> dict[str, Any]:
        """The JSON report (docs/schemas/wrap-1.json)."""
        return {
            "kernel": base_name(kernel),
            "output": base_name(output),
            "output_len": len(self.data),
            "output_sha256": self.sha256,
            "kaslr": self.kaslr,
        }


def wrap_kernel(image: ElfImage, *, kaslr: bool) -> Wrapped:
    """`image` in a bzImage. Raises as vmipatch.image.wrap.wrap does."""
    relocations = Relocations.of(image)
    words = relocation_list(image, relocations) if len(relocations) else None
    return Wrapped(wrap(image, words, kaslr=kaslr), words is not None and kaslr)
