# SPDX-License-Identifier: MIT
"""Is what was recovered from a vmlinuz the same as in the vmlinux of its build?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_FUNC
from vmipatch.recover import recover
from vmipatch.recover.image import Recovered
from vmipatch.rewrite import RewrittenImage, Treatment, rewrite
from vmipatch.rewrite.placement import Placement
from vmipatch.rewrite.references import Words, lead_relocations, lead_tables
from vmipatch.scan.code import CodeMap
from vmipatch.scan.site import Reason

BOUNDS = {
    "__start___jump_table": "__start___jump_table",
    "__stop___jump_table": "__stop___jump_table",
    "__start_mcount_loc": "__start_mcount_loc",
    "__stop_mcount_loc": "__stop_mcount_loc",
    "__initcall_start": "__initcall_start",
    "__initcall_end": "__con_initcall_end",
    "__static_call_text_start": "__static_call_text_start",
    "__static_call_text_end": "__static_call_text_end",
}
"""Recovered bounds and true ones; initcalls of consoles stand after the others."""
LOST = (Reason.NO_ROOM, Reason.FIXED)
"""Why a site stays native that would be rewritten if all references were known."""


@dataclass(frozen=True)
class Alone:
    """A vmlinuz, what was recovered from it, and what was made of that."""

    source: ElfImage
    found: Recovered
    done: RewrittenImage

    @classmethod
    def of(cls, vmlinuz: Path) -> Alone:
        """Recover and rewrite."""
        packed = BzImage.parse(vmlinuz.read_bytes(), vmlinuz.name)
        source = ElfImage.parse(packed.vmlinux, vmlinuz.name)
        found = recover(source, packed.relocs)
        return cls(source, found, rewrite(found.kernel))

    @property
    def output(self) -> ElfImage:
        """The rewritten kernel."""
        return ElfImage.parse(self.done.data, "rewritten")

    @property
    def share(self) -> float:
        """Which part of the sites is rewritten that would be if all references were known."""
        rewritten = sum(1 for s in self.done.scan.sites if Treatment.of(s) is not Treatment.NATIVE)
        lost = sum(1 for s in self.done.scan.sites if s.reason in LOST)
        return rewritten / (rewritten + lost)


def wrong_names(alone: Alone, truth: ElfImage) -> list[str]:
    """Recovered functions that the vmlinux does not have at their place."""
    known = {(s.name, s.va) for s in truth.symbols}
    mine = (s for s in alone.found.image.symbols if s.kind == STT_FUNC)
    return [s.name for s in mine if (s.name, s.va) not in known]


def wrong_bounds(alone: Alone, truth: ElfImage) -> list[str]:
    """Bounds of tables that are not where the vmlinux has them, or lack."""
    return [
        mine
        for mine, its in BOUNDS.items()
        if alone.found.image.symbols.address(mine) != _of_a_table(truth, mine, its)
    ]


def _of_a_table(truth: ElfImage, mine: str, its: str) -> int | None:
    """A bound, None where the table between it and its fellow is empty."""
    start, stop = (n for n in sorted({mine, *BOUNDS}) if _family(n) == _family(mine))
    same = truth.symbols.address(start) == truth.symbols.address(stop)
    return None if same else truth.symbols.address(its)


def _family(name: str) -> str:
    return name.replace("start", "").replace("stop", "").replace("end", "")


def wrong_words(alone: Alone, truth: ElfImage) -> list[int]:
    """Addresses of words of the output that do not hold what true symbols and relocations ask for.

    Words of branches are not among them: those are led by decoding.
    """
    code_map = CodeMap.of(truth)
    placement = _for(truth, alone)
    moved = {old: new for t in alone.done.trampolines for old, new in t.words.items()}
    words = [lead_relocations(code_map, placement, moved), lead_tables(code_map, placement)]
    return [va for each in words for va in _differing(alone.output, each)]


def _for(truth: ElfImage, alone: Alone) -> Placement:
    """The layout, its sections numbered as in the vmlinux."""
    names = {s.index: s.name.removesuffix(".behind") for s in alone.found.image.sections}
    by_name = {names[index]: changes for index, changes in alone.done.placement.changes.items()}
    changes = {truth.section_by_name[name].index: each for name, each in by_name.items()}
    return replace(alone.done.placement, changes=changes)


def _differing(output: ElfImage, words: Words) -> list[int]:
    octets = np.frombuffer(output.data, np.uint8)
    offs = np.full(len(words.va), -1, np.int64)
    for section in output.allocated_sections:
        if section.has_bytes:
            inside = (words.va >= section.va) & (words.va + 4 <= section.end_va)
            offs[inside] = words.va[inside] - section.va + section.off
    assert (offs >= 0).all()
    found = octets[offs[:, None] + np.arange(4)].reshape(-1).view("<u4")
    return [int(va) for va in words.va[found != words.value]]
