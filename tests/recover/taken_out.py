# SPDX-License-Identifier: MIT
"""How does a test get a vmlinux as Linux 6.12 leaves it: symbols, and its relocations in a list?"""

from __future__ import annotations

from tests.rewrite.smallkernel import SmallKernel
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations


def without_relocations(kernel: SmallKernel) -> tuple[bytes, tuple[int, ...]]:
    """The ELF file, and the addresses of the list.

    The build's patterns leave the relocations of sections such as runtime_ptr_x.
    """
    whole = kernel.image()
    builder = kernel.builder()
    left = [block for block in kernel.blocks if not block.name.startswith((".", "__"))]
    builder.relocations[:] = [
        row for row in builder.relocations if any(b.va <= row[0] < b.end_va for b in left)
    ]
    return builder.build(), relocation_list(whole, Relocations.of(whole))
