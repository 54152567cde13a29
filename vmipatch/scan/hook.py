# SPDX-License-Identifier: MIT
"""What enters the function before which the runtime runs?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmipatch.image.ascending import among, distinct
from vmipatch.image.hook import hook_va, own_end
from vmipatch.image.relocations import R_386_32
from vmipatch.tables.table import Order

if TYPE_CHECKING:
    from vmipatch.scan.code import CodeMap

LOADER = "module_finalize"
"""The last call of the module loader for a module in its place and linked (kernel/module.c)."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The function, and everything that is to target the runtime instead."""

    name: str
    va: int
    branches: tuple[int, ...]
    """Addresses of the direct branches to it, but for those of its own loops."""
    words: tuple[int, ...]
    """Addresses of the absolute words that hold its address: operands of code; if there is neither
    such an operand nor a branch, words of data, which may also be there to name it."""

    @property
    def is_entered(self) -> bool:
        """Whether the runtime would ever run."""
        return bool(self.branches or self.words)


def find_hook(code_map: CodeMap, name: str) -> Hook | None:
    """The hook of this name, None if no code has the name, or several have it.

    Words of the kernel's own tables are not among those that are redirected: a symbol table names
    the function, and enters nothing.
    """
    image = code_map.image
    va = hook_va(image, name)
    if va is None:
        return None
    branches = _branches(code_map, va, own_end(image, va))
    places = _words(code_map, va)
    in_code = np.zeros(len(places), np.bool_)
    for section in image.executable_sections:
        in_code |= (places >= section.va) & (places < section.end_va)
    for start_va, end_va in code_map.kept.objects:
        in_code &= (places < start_va) | (places >= end_va)
    operands = places[in_code]
    words = operands if branches or len(operands) else places
    return Hook(name, va, tuple(branches), tuple(words.tolist()))


def branches_to(code_map: CodeMap, va: int) -> list[int]:
    """Addresses of all direct branches to `va`, ascending."""
    found: list[int] = []
    for stream in code_map.streams.values():
        found += stream.starts[stream.branches[stream.branch_targets == va]].tolist()
    return sorted(found)


def _branches(code_map: CodeMap, va: int, end_va: int) -> list[int]:
    return [place for place in branches_to(code_map, va) if not va <= place < end_va]


def _words(code_map: CodeMap, va: int) -> np.ndarray:
    """Places (i64) of the absolute words that hold `va`, without those of tables."""
    entries = code_map.relocations.entries
    holds = (entries["kind"] == R_386_32) & (entries["value"] == va)
    places = entries["va"][holds].astype(np.int64)
    covered = [t.words["va"].astype(np.int64) for t in code_map.tables]
    keep = ~among(places, distinct(np.concatenate([np.zeros(0, np.int64), *covered])))
    for table in code_map.tables:
        if table.order is Order.SORTED:
            keep &= (places < table.start_va) | (places >= table.end_va)
    kept: np.ndarray = places[keep]
    return kept
