# SPDX-License-Identifier: MIT
"""How is code laid out anew between places that must not move?

Where not every reference is known, some code stays where it is. Between two such ranges padding
has to take back all growth; sites for which there is too little are named, to be left as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vmipatch.errors import VmipatchError
from vmipatch.rewrite.body import NativeBody, give_up
from vmipatch.rewrite.layout import Change, FillerRun, NoRoom, fit
from vmipatch.scan.site import Site

FAR_END = 1 << 32
NEIGHBOURHOOD = 512
"""How far from a branch that became near a site may be for whose sake it did."""


class Crowded(VmipatchError):
    """Some sites have no room to grow: those at `vas` have to stay as they are."""

    def __init__(self, vas: frozenset[int]) -> None:
        super().__init__(f"{len(vas)} sites have no room between code that must not move")
        self.vas = vas


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Items that change their length between two fixed ranges."""

    start_va: int
    end_va: int
    items: list[Change | FillerRun] = field(hash=False)


def fit_between(
    items: Sequence[Change | FillerRun],
    fixed: Sequence[tuple[int, int]],
    sites: Sequence[tuple[Site, NativeBody]],
    max_drift: int,
) -> list[Change]:
    """As `layout.fit`, with no drift at any address of `fixed` (ranges, ascending, disjoint).

    Only after the last of them the code may drift at its end, by `max_drift`. `sites` are those
    among `items`. Raises Crowded; NoRoom if after the last range no site is left to give up.
    """
    changes: list[Change] = []
    crowded: set[int] = set()
    stretches = _stretches(items, fixed)
    for stretch in stretches:
        is_last = stretch is stretches[-1]
        try:
            found = fit(stretch.items, max_drift if is_last else 0)
            changes += found if is_last else _ending_without_drift(stretch.items, found)
        except NoRoom as error:
            given = _given_up(stretch, sites, error.missing)
            if not given:
                raise
            crowded |= given
    if crowded:
        raise Crowded(frozenset(crowded))
    return changes


def overlap(start_va: int, end_va: int, fixed: Iterable[tuple[int, int]]) -> bool:
    """Whether [start_va, end_va) holds an address of `fixed` after its first."""
    return any(
        (start < end_va and end > start_va) or start_va < start < end_va for start, end in fixed
    )


def _stretches(
    items: Sequence[Change | FillerRun], fixed: Sequence[tuple[int, int]]
) -> list[_Stretch]:
    """The items between the ranges; padding that reaches into one stays, and is not among them."""
    starts = [0, *(end for _, end in fixed)]
    ends = [*(start for start, _ in fixed), FAR_END]
    result = []
    at = 0
    for start, end in zip(starts, ends, strict=True):
        inside: list[Change | FillerRun] = []
        while at < len(items) and items[at].va < end:
            item = items[at]
            if item.va >= start and item.va + item.old_len <= end:
                inside.append(item)
            elif isinstance(item, Change):
                raise Crowded(frozenset({item.va}))
            at += 1
        result.append(_Stretch(start, end, inside))
    return result


def _ending_without_drift(
    items: Sequence[Change | FillerRun], changes: list[Change]
) -> list[Change]:
    """The changes, the last padding so long that the stretch ends where it ended."""
    drift = sum(change.new_len - change.old_len for change in changes)
    if not drift:
        return changes
    last = max((item for item in items if isinstance(item, FillerRun)), key=lambda item: item.va)
    if last.align > 1:
        raise NoRoom(-drift)
    by_va = {change.va: change for change in changes}
    found = by_va.get(last.va, Change(last.va, last.old_len, last.old_len))
    by_va[last.va] = Change(last.va, last.old_len, found.new_len - drift)
    return [
        change
        for _, change in sorted(by_va.items())
        if change.new_len != change.old_len or change.va != last.va
    ]


def _given_up(
    stretch: _Stretch, sites: Sequence[tuple[Site, NativeBody]], missing: int
) -> frozenset[int]:
    """Sites of the stretch whose growth is what is missing, or those around its near branches."""
    inside = [pair for pair in sites if stretch.start_va <= pair[0].va < stretch.end_va]
    given = give_up(inside, missing)
    if given:
        return given
    branches = [item.va for item in stretch.items if isinstance(item, Change)]
    return frozenset(
        site.va
        for site, body in sites
        if len(body.code) > len(site.code)
        and any(abs(site.va - va) <= NEIGHBOURHOOD for va in branches)
    )
