# SPDX-License-Identifier: MIT
"""How many instructions does the padding of a rewritten kernel add when it runs natively?

The exact answer needs no second kernel: each site was executed so often in the original, and its
new body has so many instructions more. Branches that became near add none. Padding between
functions is code where one function runs on into the next, so it is counted too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.counting import CountedRange
from vmipatch.isa.decode import Flow, InstructionStream, Shape, decode
from vmipatch.rewrite import RewrittenImage
from vmipatch.rewrite.body import NativeBody, nops
from vmipatch.scan.site import Site

FUNCTION_PADDING = "padding between functions"


@dataclass(frozen=True, slots=True)
class CostOfPlace:
    """A place of the original whose every execution takes `added` instructions more."""

    va: int
    added: int
    what: str
    """The sensitive form, as the manual writes it, or FUNCTION_PADDING."""
    function: str
    """The symbol it lies under."""


@dataclass(frozen=True, slots=True)
class CostShare:
    """Contribution of all places of one kind, or of one function."""

    what: str
    executions: int
    added: int


@dataclass(frozen=True, slots=True)
class NativeCost:
    """Instructions added to a run of `instructions`."""

    instructions: int
    forms: tuple[CostShare, ...]
    """The forms that add something, the greatest first."""
    functions: tuple[CostShare, ...]
    """The same by function: a few that wait for a clock can outweigh all others."""

    @property
    def added(self) -> int:
        """Instructions added by all places."""
        return sum(share.added for share in self.forms)

    @property
    def per_cent(self) -> float:
        """Added instructions in per cent of those that the original executes."""
        return 100 * self.added / self.instructions


def native_cost(
    growths: Iterable[CostOfPlace], executions: Mapping[int, int], instructions: int
) -> NativeCost:
    """The sum over all places of executions times added instructions.

    `executions` are those of the original by address; an address that is missing was not watched,
    a KeyError.
    """
    grown = [growth for growth in growths if growth.added]
    return NativeCost(
        instructions,
        _shares(((growth.what, growth) for growth in grown), executions),
        _shares(((growth.function, growth) for growth in grown), executions),
    )


def _shares(
    named: Iterable[tuple[str, CostOfPlace]], executions: Mapping[int, int]
) -> tuple[CostShare, ...]:
    executed: Counter[str] = Counter()
    added: Counter[str] = Counter()
    for name, growth in named:
        executed[name] += executions[growth.va]
        added[name] += executions[growth.va] * growth.added
    shares = [CostShare(name, executed[name], count) for name, count in added.items() if count]
    return tuple(sorted(shares, key=lambda share: (-share.added, share.what)))


def growths(result: RewrittenImage) -> tuple[CostOfPlace, ...]:
    """Every site, and every padding between functions with another number of nops, by address.

    A repeated string instruction counts as often as it iterates, so its padding is overestimated.
    """
    sites = [
        CostOfPlace(
            site.va,
            added_when_run(site, body),
            " + ".join(form.name for form in site.forms),
            _function(result, site.va),
        )
        for site, body in result.sites
    ]
    return tuple(sorted((*sites, *_function_paddings(result)), key=lambda growth: growth.va))


def added_when_run(site: Site, body: NativeBody) -> int:
    """Instructions that an execution of `site` takes more: a nop after iret is never reached."""
    following = body.code.startswith(site.code)
    last = int(decode(site.code, site.va).flows[-1])
    return 0 if following and last == Flow.STOP else body.added_instructions


def fillers(result: RewrittenImage) -> Iterator[CountedRange]:
    """Where the nops of the sites are in the new image; one with two nops shows its first."""
    for site, body in result.sites:
        if body.added_instructions:
            following = len(site.code) if body.code.startswith(site.code) else 0
            va = result.placement.map.one(site.va) + following
            yield CountedRange(va, va + 1)


def room(result: RewrittenImage) -> CountedRange:
    """Where the runtime and its thunks are in the new image."""
    return CountedRange(result.placement.text_end_va, result.placement.room_end_va)


def _function_paddings(result: RewrittenImage) -> Iterator[CostOfPlace]:
    sites = {site.va for site, _ in result.sites}
    for section, stream in result.scan.code_map:
        for change in result.placement.changes.get(section.index, ()):
            first = stream.index_of(change.va)
            if change.va in sites or stream.shapes[first] != Shape.NOP:
                continue
            before = _instructions_in(stream, first, change.va + change.old_len)
            after = len(decode(nops(change.new_len), 0))
            if after != before:
                where = _function(result, change.va)
                yield CostOfPlace(change.va, after - before, FUNCTION_PADDING, where)


def _instructions_in(stream: InstructionStream, first: int, end_va: int) -> int:
    """Instructions from index `first` up to `end_va`, where one ends."""
    following = stream.index_of(end_va)
    return (following if following >= 0 else len(stream)) - first


def _function(result: RewrittenImage, va: int) -> str:
    return result.scan.image.symbols.place_of(va).partition("+")[0]
