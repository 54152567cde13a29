# SPDX-License-Identifier: MIT
"""Where everything goes: the new layout of code, and what it means for later sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import REGION_LEN
from vmipatch.image.types import Section
from vmipatch.isa.decode import InstructionStream
from vmipatch.rewrite.address_map import AddressMap
from vmipatch.rewrite.body import NativeBody
from vmipatch.rewrite.fixed import fit_between
from vmipatch.rewrite.layout import Change, NoRoom, fit
from vmipatch.rewrite.reach import Reach
from vmipatch.rewrite.region import Region
from vmipatch.scan.code import CodeMap
from vmipatch.scan.site import Site
from vmipatch.scan.zones import Zones

PAGE = 4096


class InitOverflow(NoRoom):
    """The growth of .init.text exceeds what is free between it and the next section."""


@dataclass(frozen=True)
class Placement:
    """The new layout.

    `changes` maps the section index of each region to its changes in address order. Code of .text
    ends at `text_end_va`; from there to `room_end_va` there is room for what is added. All sections
    after .text move by `shift_len` bytes (0 in absorb mode).
    """

    map: AddressMap
    changes: dict[int, tuple[Change, ...]] = field(hash=False)
    trailing: dict[int, int] = field(hash=False)
    """Section index and shift of executable sections right after .init.text."""
    text_end_va: int
    room_end_va: int
    shift_len: int

    def all_changes(self) -> list[Change]:
        """The changes of all regions in address order."""
        every = (change for changes in self.changes.values() for change in changes)
        return sorted(every, key=lambda change: change.va)

    def inserted_at(self, vas: np.ndarray) -> np.ndarray:
        """How many bytes of padding were put in at each address where none was (i64)."""
        result = np.zeros(len(vas), np.int64)
        for change in self.all_changes():
            if not change.old_len:
                result[vas == change.va] = change.new_len
        return result

    def resized(self, source: ElfImage) -> list[Change]:
        """The changes of all regions in address order, as `source` has them.

        If the room is in the middle of its .text, it counts as one.
        """
        every = self.all_changes()
        text = source.section_by_name[".text"]
        if text.va < self.room_end_va < text.end_va:
            every.append(Change(self.room_end_va, 0, self.room_end_va - self.text_end_va))
        return sorted(every, key=lambda change: change.va)


@dataclass(frozen=True, slots=True)
class Regions:
    """The sections that are laid out anew."""

    text: Region
    init: Region | None = None
    following: Region | None = None
    """The part of .text after the border that a recovered kernel has."""

    def with_sites(self, sites: Sequence[tuple[Site, NativeBody]]) -> Regions:
        """The same, each region with those of `sites` that lie in it."""
        init = None if self.init is None else self.init.with_sites(sites)
        following = None if self.following is None else self.following.with_sites(sites)
        return Regions(self.text.with_sites(sites), init, following)


def place(
    code_map: CodeMap,
    zones: Zones,
    regions: Regions,
    room_len: int,
    fixed: Sequence[tuple[int, int]] | None = None,
) -> Placement:
    """Lay out .text, with `room_len` bytes left after it, and .init.text.

    Branches that no longer reach become near, until nothing changes. `fixed` are ranges of code
    that must not move; with it, even if there are none, no section after .text moves either.
    Raises InitOverflow if .init.text overflows, Crowded if a site has no room between fixed code,
    NoRoom if what is added has none, OutOfReach for branches that cannot be widened.
    """
    planner = _Planner(code_map.image, regions, room_len, fixed)
    return _settle(code_map, zones, planner.widened, planner.layout)


def place_apart(code_map: CodeMap, zones: Zones, regions: Sequence[Region]) -> Placement:
    """Lay out sections that have room of their own to grow, as those of a linked module have.

    Raises OutOfReach for branches that cannot be widened.
    """
    widened: dict[int, Change] = {}

    def layout() -> Placement:
        changes: dict[int, tuple[Change, ...]] = {}
        pieces: list[tuple[int, int]] = []
        for region in regions:
            section = _section_of(code_map.image, region.stream)
            mine = _within(widened, region.stream)
            changes[section.index] = tuple(fit(region.items(mine), REGION_LEN - section.size))
            moved, drift = _pieces(section.va, 0, changes[section.index])
            pieces += [*moved, (section.end_va, drift), (section.va + REGION_LEN, 0)]
        return Placement(AddressMap.of(pieces), changes, {}, 0, 0, 0)

    return _settle(code_map, zones, widened, layout)


def _settle(
    code_map: CodeMap,
    zones: Zones,
    widened: dict[int, Change],
    layout: Callable[[], Placement],
) -> Placement:
    """Lay out until every short branch reaches; those that do not are added to `widened`.

    Raises OutOfReach for those that cannot become near.
    """
    while True:
        placement = layout()
        reach = Reach(code_map, zones, placement.map, widened)
        far = reach.to_widen()
        if not far:
            reach.require_jump_labels()
            return placement
        widened.update((change.va, change) for change in far)


def _within(widened: dict[int, Change], stream: InstructionStream) -> dict[int, Change]:
    return {va: change for va, change in widened.items() if stream.va <= va < stream.end_va}


class _Planner:
    """The values that stay the same over the rounds, and the branches widened so far."""

    def __init__(
        self,
        image: ElfImage,
        regions: Regions,
        room_len: int,
        fixed: Sequence[tuple[int, int]] | None,
    ) -> None:
        self.image, self.room_len, self.fixed = image, room_len, fixed
        self.text, self.init, self.following = regions.text, regions.init, regions.following
        self.widened: dict[int, Change] = {}
        self._shift = 0

    def layout(self) -> Placement:
        """One round. A later round never shifts less than an earlier one."""
        text = self.text.stream
        section = _section_of(self.image, text)
        free_end = _free_end(self.image, section)
        while True:
            room_end = free_end + self._shift
            limit = room_end - section.end_va - self.room_len
            try:
                text_changes = self._fit(self.text, limit)
                break
            except NoRoom as error:
                if self.fixed is not None:
                    raise
                unit = self._shift_unit(section)
                self._shift += -(-error.missing // unit) * unit
        pieces, drift = _pieces(text.va, 0, text_changes)
        pieces.append((section.end_va, self._shift))
        init_changes, trailing, init_pieces = self._layout_init()
        behind_changes, behind_pieces = self._layout_behind()
        changes = {section.index: tuple(text_changes), **behind_changes, **init_changes}
        return Placement(
            AddressMap.of(pieces + behind_pieces + init_pieces),
            changes,
            trailing,
            section.end_va + drift,
            room_end,
            self._shift,
        )

    def _fit(self, region: Region, max_drift: int) -> list[Change]:
        items = region.items(_within(self.widened, region.stream))
        if self.fixed is None:
            return fit(items, max_drift)
        return fit_between(items, self._fixed_in(region.stream), region.sites, max_drift)

    def _fixed_in(self, stream: InstructionStream) -> list[tuple[int, int]]:
        return [
            (start, end) for start, end in self.fixed or () if stream.va <= start < stream.end_va
        ]

    def _layout_behind(self) -> tuple[dict[int, tuple[Change, ...]], list[tuple[int, int]]]:
        if self.following is None:
            return {}, []
        stream = self.following.stream
        section = _section_of(self.image, stream)
        changes = self._fit(self.following, 0)
        pieces, _ = _pieces(stream.va, 0, changes)
        return {section.index: tuple(changes)}, [*pieces, (section.end_va, 0)]

    def _layout_init(
        self,
    ) -> tuple[dict[int, tuple[Change, ...]], dict[int, int], list[tuple[int, int]]]:
        if self.init is None:
            return {}, {}, []
        stream = self.init.stream
        section = _section_of(self.image, stream)
        following, fixed_va = _sections_behind(self.image, section)
        end_va = following[-1].end_va if following else section.end_va
        align = max((s.align for s in following), default=1)
        slack = (fixed_va - end_va) // align * align
        try:
            changes = self._fit(self.init, slack)
        except NoRoom as error:
            raise InitOverflow(error.missing) from error
        pieces, drift = _pieces(stream.va, self._shift, changes)
        tail = -(-max(drift, 0) // align) * align
        # What ends with the code ends where it ends now; the next section is where it was.
        pieces += [(section.end_va, self._shift + (tail if following else drift))]
        pieces += [(fixed_va, self._shift)]
        trailing = {s.index: tail for s in following}
        return {section.index: tuple(changes)}, trailing, pieces

    def _shift_unit(self, text: Section) -> int:
        """Whole pages that keep the alignment of every later section, segment and object.

        No header speaks of objects that a linker script aligns. Linux up to 4.8 finds a task by its
        stack pointer because stacks, init_thread_union first, are aligned to their own size.
        """
        aligns = [s.align for s in self.image.allocated_sections if s.va >= text.end_va]
        aligns += [segment.align for segment in self.image.loads]
        objects = self.image.symbols.aligned_objects
        aligns += objects["size"][objects["value"] >= text.end_va].tolist()
        return max(PAGE, *aligns)


def _pieces(
    start_va: int, shift: int, changes: Sequence[Change]
) -> tuple[list[tuple[int, int]], int]:
    """Breakpoints of the address map for one region, and its drift at the end."""
    drift = 0
    pieces = [(start_va, shift)]
    for change in changes:
        drift += change.new_len - change.old_len
        pieces.append((change.va + change.old_len, shift + drift))
    return pieces, drift


def _section_of(image: ElfImage, stream: InstructionStream) -> Section:
    section = image.section_at(stream.va)
    assert section is not None, "a stream is decoded from a section"
    return section


def _free_end(image: ElfImage, text: Section) -> int:
    """Where the room after .text ends: with its page, unless a section begins before.

    Kernels up to 4.x have their exception table right after the code.
    """
    page_end = -(-text.end_va // PAGE) * PAGE
    following = (s.va for s in image.allocated_sections if s.va >= text.end_va and s.size)
    return min(page_end, *following, page_end)


def _sections_behind(image: ElfImage, init: Section) -> tuple[list[Section], int]:
    """Executable sections right after .init.text, and where the first other one begins."""
    following: list[Section] = []
    for section in image.allocated_sections:
        if section.va < init.end_va or section.index == init.index:
            continue
        if not section.is_exec:
            return following, section.va
        following.append(section)
    return following, init.end_va
