# SPDX-License-Identifier: MIT
"""How does a test get a vmlinux as Linux 6.12 leaves it: symbols, and its relocations in a list?"""

from __future__ import annotations

from tests.rewrite.smallkernel import SmallKernel
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations


def without_relocations(kernel: SmallKernel) -> tuple[bytes, tuple[int, ...]]:
    """The ELF file, and the addresses of the list."""
    whole = kernel.image()
    builder = kernel.builder()
    builder.relocations.clear()
    return builder.build(), relocation_list(whole, Relocations.of(whole))
