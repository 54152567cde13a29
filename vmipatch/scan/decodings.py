# SPDX-License-Identifier: MIT
"""In which bucket is each sensitive decoding, at whatever byte it begins?"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from vmipatch.errors import VmipatchError
from vmipatch.isa.anywhere import SENSITIVE, sensitive_anywhere
from vmipatch.isa.decode import InstructionStream
from vmipatch.scan.ledger import ByteClass, SectionAccount
from vmipatch.scan.scan import ScanResult
from vmipatch.scan.site import Disposition, Site


class Bucket(enum.Enum):
    """The fate of a sensitive decoding."""

    REWRITTEN = "rewritten"
    NATIVE_TRAPPING = "native-trapping"
    NATIVE_UNPRIVILEGED = "native-unprivileged"
    NO_BOUNDARY = "not an instruction boundary"
    DATA = "data"
    UNKNOWN = "unknown"


_OF_SITE = {
    Disposition.REWRITTEN: Bucket.REWRITTEN,
    Disposition.NATIVE_TRAPPING: Bucket.NATIVE_TRAPPING,
    Disposition.NATIVE_UNPRIVILEGED: Bucket.NATIVE_UNPRIVILEGED,
}
_BUCKETS = list(Bucket)


@dataclass(frozen=True, slots=True)
class Decodings:
    """All sensitive decodings of one section, each counted once."""

    section: str
    counts: dict[Bucket, dict[str, int]] = field(hash=False)
    """By bucket and class of instruction, both sorted; empty buckets have no classes."""
    intervals: tuple[tuple[int, int, Bucket, int], ...]
    """Stretches of the section in which all decodings begin in one bucket: start, end, bucket, and
    how many; together they hold every decoding."""

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(sum(kinds.values()) for kinds in self.counts.values())


def decodings_of(result: ScanResult) -> tuple[Decodings, ...]:
    """Put every sensitive decoding of every executable byte into one bucket.

    Raises VmipatchError if the sums do not agree, which would be a bug.
    """
    found = []
    for account, (section, stream) in zip(result.ledger.sections, result.code_map, strict=True):
        sites = [site for site in result.sites if site.section == section.index]
        offs, kinds = sensitive_anywhere(stream.code)
        vas = offs + stream.va
        buckets = _buckets(vas, account, stream, sites)
        account_of = Decodings(section.name, _counts(buckets, kinds), _intervals(vas, buckets))
        if account_of.total != len(vas) or sum(i[3] for i in account_of.intervals) != len(vas):
            raise VmipatchError(
                f"{section.name}: {len(vas)} sensitive decodings, {account_of.total} accounted for",
                hint="this is a bug of vmipatch",
            )
        found.append(account_of)
    return tuple(found)


def _buckets(
    vas: np.ndarray, account: SectionAccount, stream: InstructionStream, sites: list[Site]
) -> np.ndarray:
    """Index into `_BUCKETS` for each decoding."""
    rank = {bucket: index for index, bucket in enumerate(_BUCKETS)}
    of_class = np.zeros(len(ByteClass), np.uint8)
    of_class[[ByteClass.CODE, ByteClass.PADDING]] = rank[Bucket.NO_BOUNDARY]
    of_class[ByteClass.DATA] = rank[Bucket.DATA]
    of_class[ByteClass.UNKNOWN] = rank[Bucket.UNKNOWN]
    buckets: np.ndarray = of_class[account.class_at(vas)]
    starts = stream.starts.astype(np.int64)
    at = np.searchsorted(starts, vas)
    begins = starts[np.minimum(at, len(starts) - 1)] == vas
    # A boundary of code is a site's, or something was overlooked.
    buckets[begins & (buckets == rank[Bucket.NO_BOUNDARY])] = rank[Bucket.UNKNOWN]
    for site in sites:
        if site.disposition in _OF_SITE:
            low, high = np.searchsorted(vas, (site.va, site.end_va))
            mine = np.arange(low, high)[begins[low:high]]
            buckets[mine] = rank[_OF_SITE[site.disposition]]
    return buckets


def _counts(buckets: np.ndarray, kinds: np.ndarray) -> dict[Bucket, dict[str, int]]:
    result = {}
    for index, bucket in enumerate(_BUCKETS):
        counts = np.bincount(kinds[buckets == index], minlength=len(SENSITIVE)).tolist()
        by_class: Counter[str] = Counter()
        for form, count in zip(SENSITIVE, counts, strict=True):
            by_class[form.kind] += count
        result[bucket] = {kind: count for kind, count in sorted(by_class.items()) if count}
    return result


def _intervals(vas: np.ndarray, buckets: np.ndarray) -> tuple[tuple[int, int, Bucket, int], ...]:
    first = np.flatnonzero(np.diff(buckets, prepend=np.uint8(255)))
    last = np.append(first[1:], len(vas)) - 1
    return tuple(
        (start, end + 1, _BUCKETS[bucket], count)
        for start, end, bucket, count in zip(
            vas[first].tolist(),
            vas[last].tolist() if len(vas) else [],
            buckets[first].tolist(),
            (last - first + 1).tolist() if len(vas) else [],
            strict=True,
        )
    )
