# SPDX-License-Identifier: MIT
"""What became of every byte of code, and of every sensitive instruction?"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vmipatch.image.kept import ranges_in
from vmipatch.image.types import Section
from vmipatch.isa.decode import InstructionStream, Shape
from vmipatch.scan.follow import CodeEvidence, Followed
from vmipatch.scan.site import Disposition, Reason, Site


class ByteClass(enum.IntEnum):
    """The class of a byte of an executable section."""

    CODE = 0
    PADDING = 1
    DATA = 2
    UNKNOWN = 3


class LedgerReason(enum.Enum):
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
    BOOT_HEADER = "a header that boot loaders look for"
    OBJECT = "data, as a symbol of an object says"
    KEPT = "named to be kept as it is: code that is copied, and its data"
    NEVER_RUN = "all references are known and none leads here: never executed"
    NOT_LED_TO = "nothing leads here, and not all references are known"
    NO_INSTRUCTION = "code leads here, and no instruction begins"
    DISPUTED = "a reference leads into the middle of the instruction"


_OF_CODE = {
    CodeEvidence.SYMBOL: LedgerReason.SYMBOL,
    CodeEvidence.TABLE: LedgerReason.TABLE,
    CodeEvidence.REFERENCE: LedgerReason.REFERENCE,
    CodeEvidence.BRANCH: LedgerReason.BRANCH,
    CodeEvidence.FLOW: LedgerReason.FLOW,
}
CLASS_OF = {
    **dict.fromkeys(_OF_CODE.values(), ByteClass.CODE),
    LedgerReason.RUN_THROUGH: ByteClass.PADDING,
    LedgerReason.IDLE: ByteClass.PADDING,
    LedgerReason.SIGNATURE: ByteClass.DATA,
    LedgerReason.REAL_MODE: ByteClass.DATA,
    LedgerReason.BOOT_HEADER: ByteClass.DATA,
    LedgerReason.OBJECT: ByteClass.DATA,
    LedgerReason.KEPT: ByteClass.DATA,
    LedgerReason.NEVER_RUN: ByteClass.DATA,
    LedgerReason.NOT_LED_TO: ByteClass.UNKNOWN,
    LedgerReason.NO_INSTRUCTION: ByteClass.UNKNOWN,
    LedgerReason.DISPUTED: ByteClass.UNKNOWN,
}
_WHYS = list(LedgerReason)


@dataclass(frozen=True, slots=True, eq=False)
class SectionAccount:
    """The bytes of one executable section, each counted once."""

    name: str
    start_va: int
    end_va: int
    instructions: int
    evidence: dict[LedgerReason, int]
    """Bytes by what is known of them."""
    edges: np.ndarray
    """Where the class changes: starts of intervals (i64), the first at `start_va`."""
    classes: np.ndarray
    """ByteClass of each interval (u8)."""
    evidence_edges: np.ndarray
    """Where the evidence changes: starts of intervals (i64)."""
    whys: np.ndarray
    """Index into the members of Why for each of these intervals."""

    @classmethod
    def of(cls, section: Section, stream: InstructionStream, followed: Followed) -> SectionAccount:
        """Judge the bytes of `stream`."""
        whys = _whys(section, stream, followed)
        lens = stream.lens.astype(np.int64)
        sums = np.bincount(whys, lens, len(_WHYS)).astype(np.int64).tolist()
        table = np.array([CLASS_OF[why] for why in _WHYS], np.uint8)
        classes = table[whys]
        change = np.flatnonzero(np.diff(classes, prepend=np.uint8(255)))
        finer = np.flatnonzero(np.diff(whys, prepend=np.uint8(255)))
        return cls(
            section.name,
            section.va,
            section.end_va,
            len(stream) - len(stream.undecodable),
            {why: count for why, count in zip(_WHYS, sums, strict=True) if count},
            stream.starts[change].astype(np.int64),
            classes[change],
            stream.starts[finer].astype(np.int64),
            whys[finer],
        )

    def length(self, kind: ByteClass) -> int:
        """Bytes of one class."""
        return sum(count for why, count in self.evidence.items() if CLASS_OF[why] is kind)

    def class_at(self, vas: np.ndarray) -> np.ndarray:
        """ByteClass of the bytes at `vas`, which lie in the section."""
        found: np.ndarray = self.classes[np.searchsorted(self.edges, vas, side="right") - 1]
        return found

    def why(self, va: int) -> LedgerReason:
        """The evidence for the byte at `va`, which lies in the section."""
        at = int(np.searchsorted(self.evidence_edges, va, side="right")) - 1
        return _WHYS[int(self.whys[at])]

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
    unseen = rank[LedgerReason.NEVER_RUN if followed.references_known else LedgerReason.NOT_LED_TO]
    by_evidence = np.full(len(CodeEvidence), unseen, np.uint8)
    for kind, why in _OF_CODE.items():
        by_evidence[kind] = rank[why]
    by_evidence[CodeEvidence.SIGNATURE] = rank[LedgerReason.SIGNATURE]
    whys = by_evidence[evidence]
    filler = stream.shapes != Shape.CODE
    seen = (evidence > 0) & (evidence != CodeEvidence.SIGNATURE)
    whys[filler & seen] = rank[LedgerReason.RUN_THROUGH]
    whys[filler & ~seen] = rank[LedgerReason.IDLE]
    broken = stream.undecodable
    whys[broken[seen[broken]]] = rank[LedgerReason.NO_INSTRUCTION]
    whys[stream.opaque] = rank[LedgerReason.REAL_MODE]
    kept = followed.kept
    for ranges, why in (
        (kept.objects, LedgerReason.OBJECT),
        (kept.named, LedgerReason.KEPT),
        (kept.headers, LedgerReason.BOOT_HEADER),
    ):
        for start_va, end_va in ranges_in(ranges, section.va, section.end_va):
            low, high = stream.index_of(start_va), stream.index_over(end_va - 1)
            whys[low : high + 1] = rank[why]
    for va in followed.astray:
        if section.va <= va < section.end_va:
            whys[stream.index_over(va)] = rank[LedgerReason.DISPUTED]
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
        """Bytes of which it is unknown whether they are code."""
        return sum(account.length(ByteClass.UNKNOWN) for account in self.sections)
