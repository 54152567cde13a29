# SPDX-License-Identifier: MIT
"""What became of every byte of code, and of every sensitive instruction."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vmipatch.image.types import Section
from vmipatch.isa.decode import InstructionStream, Shape
from vmipatch.scan.follow import Evidence, Followed
from vmipatch.scan.site import Disposition, Reason, Site


class ByteClass(enum.IntEnum):
    """What a byte of an executable section is."""

    CODE = 0
    PADDING = 1
    DATA = 2
    UNKNOWN = 3


class Why(enum.Enum):
    """The evidence for what a byte is."""

    SYMBOL = "a symbol names the instruction"
    TABLE = "a kernel table leads to the instruction"
    REFERENCE = "a relocated word leads to the instruction"
    BRANCH = "a branch of proven code leads to the instruction"
    FLOW = "proven code runs into the instruction"
    RUN_THROUGH = "nops or int3 that proven code may run into"
    IDLE = "nops or int3 that nothing leads to"
    SIGNATURE = "a signature that the kernel looks for, behind a jump"
    REAL_MODE = "code of 16 bits that the kernel copies to low memory, and its variables"
    NEVER_RUN = "all references are known and none leads here: never executed"
    NOT_LED_TO = "nothing leads here, and not all references are known"
    NO_INSTRUCTION = "code leads here, and no instruction begins"
    DISPUTED = "a reference leads into the middle of the instruction"


_OF_CODE = {
    Evidence.SYMBOL: Why.SYMBOL,
    Evidence.TABLE: Why.TABLE,
    Evidence.REFERENCE: Why.REFERENCE,
    Evidence.BRANCH: Why.BRANCH,
    Evidence.FLOW: Why.FLOW,
}
CLASS_OF = {
    **dict.fromkeys(_OF_CODE.values(), ByteClass.CODE),
    Why.RUN_THROUGH: ByteClass.PADDING,
    Why.IDLE: ByteClass.PADDING,
    Why.SIGNATURE: ByteClass.DATA,
    Why.REAL_MODE: ByteClass.DATA,
    Why.NEVER_RUN: ByteClass.DATA,
    Why.NOT_LED_TO: ByteClass.UNKNOWN,
    Why.NO_INSTRUCTION: ByteClass.UNKNOWN,
    Why.DISPUTED: ByteClass.UNKNOWN,
}
_WHYS = list(Why)


@dataclass(frozen=True, slots=True, eq=False)
class SectionAccount:
    """The bytes of one executable section, each counted once."""

    name: str
    start_va: int
    end_va: int
    instructions: int
    evidence: dict[Why, int]
    """Bytes by what is known of them."""
    edges: np.ndarray
    """Where the class changes: starts of intervals (i64), the first at `start_va`."""
    classes: np.ndarray
    """ByteClass of each interval (u8)."""

    @classmethod
    def of(cls, section: Section, stream: InstructionStream, followed: Followed) -> SectionAccount:
        """Judge the bytes of `stream`."""
        whys = _whys(section, stream, followed)
        lens = stream.lens.astype(np.int64)
        sums = np.bincount(whys, lens, len(_WHYS)).astype(np.int64).tolist()
        table = np.array([CLASS_OF[why] for why in _WHYS], np.uint8)
        classes = table[whys]
        change = np.flatnonzero(np.diff(classes, prepend=np.uint8(255)))
        return cls(
            section.name,
            section.va,
            section.end_va,
            len(stream) - len(stream.undecodable),
            {why: count for why, count in zip(_WHYS, sums, strict=True) if count},
            stream.starts[change].astype(np.int64),
            classes[change],
        )

    def length(self, kind: ByteClass) -> int:
        """Bytes of one class."""
        return sum(count for why, count in self.evidence.items() if CLASS_OF[why] is kind)

    def class_at(self, vas: np.ndarray) -> np.ndarray:
        """ByteClass of the bytes at `vas`, which lie in the section."""
        found: np.ndarray = self.classes[np.searchsorted(self.edges, vas, side="right") - 1]
        return found

    @property
    def intervals(self) -> list[tuple[int, int, ByteClass]]:
        """[start, end) of each stretch of one class, in address order."""
        ends = [*self.edges[1:].tolist(), self.end_va]
        rows = zip(self.edges.tolist(), ends, self.classes.tolist(), strict=True)
        return [(start, end, ByteClass(kind)) for start, end, kind in rows]


def _whys(section: Section, stream: InstructionStream, followed: Followed) -> np.ndarray:
    """Index into `_WHYS` for each instruction."""
    rank = {why: index for index, why in enumerate(_WHYS)}
    evidence = followed.evidence[section.index]
    unseen = rank[Why.NEVER_RUN if followed.references_known else Why.NOT_LED_TO]
    by_evidence = np.full(len(Evidence), unseen, np.uint8)
    for kind, why in _OF_CODE.items():
        by_evidence[kind] = rank[why]
    by_evidence[Evidence.SIGNATURE] = rank[Why.SIGNATURE]
    whys = by_evidence[evidence]
    filler = stream.shapes != Shape.CODE
    seen = (evidence > 0) & (evidence != Evidence.SIGNATURE)
    whys[filler & seen] = rank[Why.RUN_THROUGH]
    whys[filler & ~seen] = rank[Why.IDLE]
    broken = stream.undecodable
    whys[broken[seen[broken]]] = rank[Why.NO_INSTRUCTION]
    whys[stream.opaque] = rank[Why.REAL_MODE]
    for va in followed.astray:
        if section.va <= va < section.end_va:
            whys[stream.index_over(va)] = rank[Why.DISPUTED]
    return whys


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

    @cached_property
    def unknown_len(self) -> int:
        """Bytes of which nobody knows whether they are code."""
        return sum(account.length(ByteClass.UNKNOWN) for account in self.sections)
