# SPDX-License-Identifier: MIT
"""Which site is treated how, and where does everything go?"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from vmipatch.choices import Padding
from vmipatch.errors import NotSupported
from vmipatch.image.hook import records_in_room
from vmipatch.image.linked import LinkedKernel
from vmipatch.limits import Limit
from vmipatch.rewrite.address_map import Places
from vmipatch.rewrite.annotate import most_records
from vmipatch.rewrite.attach import runtime_len
from vmipatch.rewrite.body import NativeBody, body_of, give_up
from vmipatch.rewrite.fixed import Crowded, overlap
from vmipatch.rewrite.layout import NoRoom
from vmipatch.rewrite.placement import InitOverflow, Placement, Regions, place
from vmipatch.rewrite.reach import OutOfReach
from vmipatch.rewrite.region import Region
from vmipatch.rewrite.thunks import build_thunks, untranslatable
from vmipatch.rewrite.trampoline import Trampoline, Window, build, find_windows
from vmipatch.scan.scan import LAID_OUT, ScanResult
from vmipatch.scan.site import Disposition, Reason, Site
from vmipatch.tables.paging_levels import never_forbids_execution
from vmipatch.tables.table import Role, TableName

ROOM_LEN = 0x3000
"""Bytes kept free at the end of .text for thunks, the runtime, and a copy of a ROM."""
ROM_COPY_LEN = 0x800
"""Bytes of our native ROM. The runtime copies it at CPL 0, where the kernel may make the ROM's own
place non-executable."""

ROOM_ALIGN = 16
NO_ROOM = (Reason.NO_ROOM,)
GROWTH_REFUSED = (Reason.NO_ROOM, Reason.SHORT_BRANCH)
"""Why a site may not grow where it stands, though a trampoline would serve it."""
ROUNDS = 4
"""How often the room for trampolines is asked for anew, before the last of them are left out."""


class Treatment(enum.Enum):
    """The treatment of a site."""

    RELINKED = "relinked"
    TRAMPOLINE = "trampoline"
    NATIVE = "native"

    @classmethod
    def of(cls, site: Site) -> Treatment:
        """The treatment of a site of a finished plan."""
        if site.disposition is not Disposition.REWRITTEN:
            return cls.NATIVE
        return cls.TRAMPOLINE if site.reason is Reason.TRAMPOLINE else cls.RELINKED


@dataclass(frozen=True)
class Plan:
    """Everything that was decided."""

    scanned: ScanResult
    placement: Placement
    sites: tuple[tuple[Site, NativeBody], ...]
    """The sites that become calls, in place or out of line, in address order."""
    trampolines: tuple[Trampoline, ...]
    room: tuple[int, int]
    """Where thunks and runtime go, and annotations that lie there; trampolines follow."""

    @property
    def places(self) -> Places:
        """Where each site is in the new image."""
        out_of_line = {old: new for t in self.trampolines for old, new in t.places.items()}
        return Places(self.placement.map, out_of_line)

    @property
    def moved_words(self) -> dict[int, int]:
        """New addresses of the relocated words that are out of line, by original address."""
        return {old: new for t in self.trampolines for old, new in t.words.items()}

    @property
    def trampoline_code(self) -> tuple[int, bytes]:
        """Address and bytes of all trampolines."""
        return self.room[1], b"".join(trampoline.code for trampoline in self.trampolines)


def make_plan(found: ScanResult, padding: Padding, kernel: LinkedKernel) -> Plan:
    """Treat every site as well as it can be proven to be right.

    Widened where it stands if the code around it may move; through a trampoline if not; left
    native if there is no window for one. Raises InputNotUnderstood without room for the runtime.
    """
    scanned = found.leaving(untranslatable(found.rewritten), Reason.NO_TRANSLATION)
    if not kernel.is_recovered:
        return _whole(scanned, padding)
    held = {s.va for s in scanned.rewritten if overlap(s.va, s.end_va, kernel.fixed)}
    scanned = scanned.leaving(frozenset(held), Reason.FIXED)
    return _with_trampolines(scanned, padding, kernel.fixed)


def _whole(wanted: ScanResult, padding: Padding) -> Plan:
    """Of code of which all references are known: sites without room go through trampolines, too.

    They are those of initial code, which has a neighbour at its end. More room is had for them
    as long as no section moves for their sake.
    """
    order = _movable(wanted), _excepted(wanted)
    relinked, room_len = _relink_whole(wanted, padding, order)
    windows = _windows(wanted, relinked, padding, (), NO_ROOM)
    if windows.length > _free(relinked[2], room_len):
        larger = _relink(wanted, padding, None, room_len + _aligned(windows.length), order)
        if larger[2].shift_len == relinked[2].shift_len:
            relinked, windows = larger, _windows(wanted, larger, padding, (), NO_ROOM)
    plan = _finished(wanted, relinked, windows.within(_free(relinked[2], room_len)), padding)
    left = {site.va for site in plan.scanned.sites if site.reason is Reason.NO_ROOM} & order[1]
    return replace(plan, scanned=plan.scanned.leaving(frozenset(left), Reason.HELD_BY_FIXUP))


def _movable(wanted: ScanResult) -> frozenset[int]:
    """The sites of initial code for which there is a window with no other site in it."""
    section = wanted.image.section_by_name.get(".init.text")
    if section is None:
        return frozenset()
    initial = [site for site in wanted.rewritten if site.section == section.index]
    windows = find_windows(wanted, initial, (), ())
    return frozenset(site.va for w in windows if len(w.sites) == 1 for site in w.sites)


def _excepted(wanted: ScanResult) -> frozenset[int]:
    """The sites that the exception table names: it is sorted, so they do not go out of line."""
    table = wanted.code_map.tables.get(TableName.EX_TABLE)
    if table is None:
        return frozenset()
    named = table.words["target_va"][table.words["role"] == Role.INSTRUCTION].tolist()
    return frozenset(site.va for site in wanted.rewritten) & frozenset(named)


def _relink_whole(scanned: ScanResult, padding: Padding, order: Order) -> tuple[Relinked, int]:
    """Lay out code of which all references are known, with less room before a section moves.

    The second value is the room that thunks and runtime have, in bytes.
    """
    most_len = ROOM_LEN + _records_len(scanned)
    wide = _relink(scanned, padding, None, most_len, order)
    least = _room_len(scanned) + ROOM_ALIGN
    needs_copy = not never_forbids_execution(scanned.image.symbols)
    for room_len in (least + ROM_COPY_LEN, *(() if needs_copy else (least,))):
        if not wide[2].shift_len:
            break
        narrow = _relink(scanned, padding, None, room_len, order)
        if not narrow[2].shift_len:
            return narrow, room_len
    return wide, most_len


def _with_trampolines(
    wanted: ScanResult, padding: Padding, fixed: Sequence[tuple[int, int]]
) -> Plan:
    """Ask for room until all trampolines fit, or it would cost more sites than it serves."""
    needed = _room_len(wanted)
    try:
        relinked = _with_room(wanted, padding, fixed, needed)
    except NoRoom as error:
        raise NotSupported(
            Limit.NO_ROOM,
            f"between code that must not move there are {error.missing} bytes too few "
            "for the runtime",
            file=wanted.image.name,
        ) from error
    windows = _windows(wanted, relinked, padding, fixed)
    best = _Served.of(relinked, windows, needed)
    for _ in range(ROUNDS):
        if windows.length <= _free(relinked[2], needed):
            break
        try:
            relinked = _relink(wanted, padding, fixed, needed + _aligned(windows.length))
        except NoRoom:
            break
        windows = _windows(wanted, relinked, padding, fixed)
        served = _Served.of(relinked, windows, needed)
        if served.count <= best.count:
            break
        best = served
    return _finished(wanted, best.relinked, best.windows, padding)


Order = tuple[frozenset[int], ...]
"""Addresses of sites, in the order in which they are left native."""
Relinked = tuple[ScanResult, list[tuple[Site, NativeBody]], Placement]


@dataclass(frozen=True, slots=True)
class _Windows:
    """Windows in address order, and the bytes that the trampoline of each takes anywhere."""

    windows: list[Window] = field(hash=False)
    lens: list[int] = field(hash=False)

    @property
    def length(self) -> int:
        """Bytes of all trampolines."""
        return sum(self.lens)

    def within(self, room_len: int) -> list[Window]:
        """As many of them, from the first on, as `room_len` bytes hold."""
        ends = accumulate(self.lens)
        return [w for w, end in zip(self.windows, ends, strict=True) if end <= room_len]


@dataclass(frozen=True, slots=True)
class _Served:
    """A layout, and the windows for whose trampolines it has room."""

    relinked: Relinked = field(hash=False)
    windows: list[Window] = field(hash=False)

    @classmethod
    def of(cls, relinked: Relinked, windows: _Windows, needed: int) -> _Served:
        """With as many of `windows` as fit besides `needed` bytes of thunks and runtime."""
        return cls(relinked, windows.within(_free(relinked[2], needed)))

    @property
    def count(self) -> int:
        """Sites that become calls. A trampoline takes the room in which some others would grow."""
        return len(self.relinked[1]) + sum(len(window.sites) for window in self.windows)


def _with_room(
    wanted: ScanResult, padding: Padding, fixed: Sequence[tuple[int, int]], needed: int
) -> Relinked:
    """As `_relink`, with at least `needed` bytes from an aligned address on. Raises as it does.

    The section that ends the room need not be aligned as the room is.
    """
    relinked = _relink(wanted, padding, fixed, needed)
    missing = -_free(relinked[2], needed)
    if missing <= 0:
        return relinked
    return _relink(wanted, padding, fixed, needed + ROOM_ALIGN - missing)


def _windows(
    wanted: ScanResult,
    relinked: Relinked,
    padding: Padding,
    fixed: Sequence[tuple[int, int]],
    refused: Collection[Reason] = GROWTH_REFUSED,
) -> _Windows:
    """Windows for the sites that stay native for `refused`, and the bytes of their trampolines."""
    scanned, _, placement = relinked
    native = {site.va for site in scanned.sites if site.reason in refused}
    pending = [site for site in wanted.rewritten if site.va in native]
    changed = [(c.va, c.va + c.old_len) for c in placement.all_changes()]
    windows = find_windows(scanned, pending, changed, fixed)
    built = _built(windows, placement, wanted, padding, 0)
    return _Windows(windows, [len(trampoline.code) for trampoline in built])


def _built(
    windows: list[Window], placement: Placement, wanted: ScanResult, padding: Padding, va: int
) -> list[Trampoline]:
    bodies = {site.va: body_of(site, padding) for w in windows for site in w.sites}
    words = wanted.code_map.relocations.entries["va"].astype(np.int64)
    return build(windows, wanted.code_map.streams.values(), bodies, placement.map, va, words)


def _total(trampolines: list[Trampoline]) -> int:
    return sum(len(trampoline.code) for trampoline in trampolines)


def _finished(
    wanted: ScanResult, relinked: Relinked, windows: list[Window], padding: Padding
) -> Plan:
    scanned, bodies, placement = relinked
    length = _total(_built(windows, placement, wanted, padding, 0))
    va = placement.room_end_va - length
    trampolines = _built(windows, placement, wanted, padding, va)
    taken = {site.va: site for w in windows for site in w.sites}
    scanned = scanned.out_of_line(frozenset(taken))
    every = bodies + [(site, body_of(site, padding)) for site in taken.values()]
    every.sort(key=lambda pair: pair[0].va)
    return Plan(scanned, placement, tuple(every), tuple(trampolines), (_room_start(placement), va))


def _relink(
    scanned: ScanResult,
    padding: Padding,
    fixed: Sequence[tuple[int, int]] | None,
    room_len: int,
    order: Order = (),
) -> Relinked:
    """Lay the code out; leave native what does not fit, as few sites as it takes.

    Of initial code those go first whose addresses come first in `order`: a trampoline takes them,
    or a trap.
    Raises NotSupported if code has no room that is not a site.
    """
    empty = _regions(scanned)
    while True:
        bodies = [(site, body_of(site, padding)) for site in scanned.rewritten]
        reason = Reason.NO_ROOM
        regions = empty.with_sites(bodies)
        try:
            placement = place(scanned.code_map, scanned.zones, regions, room_len, fixed)
            return scanned, bodies, placement
        except InitOverflow as overflow:
            assert regions.init is not None, "something overflowed"
            given = _to_leave(regions.init.sites, overflow.missing, order)
        except Crowded as crowded:
            given = crowded.vas
        except OutOfReach as error:
            given, reason = error.sites_to_leave(bodies), Reason.SHORT_BRANCH
        if given.isdisjoint(site.va for site, _ in bodies):
            raise NotSupported(
                Limit.NO_ROOM,
                "code has no room where it stands, though none of its sites grows",
                file=scanned.image.name,
                place=", ".join(f"{va:#x}" for va in sorted(given)) or "initial code",
            )
        scanned = scanned.leaving(given, reason)


def _to_leave(
    sites: Sequence[tuple[Site, NativeBody]], missing: int, order: Order
) -> frozenset[int]:
    """Sites whose growth is at least `missing` bytes, by address: those of `order`, then others."""
    given: frozenset[int] = frozenset()
    rest = list(sites)
    for group in (*order, {site.va for site, _ in sites}):
        chosen = give_up([(site, body) for site, body in rest if site.va in group], missing)
        missing -= sum(len(b.code) - len(s.code) for s, b in rest if s.va in chosen)
        rest = [(site, body) for site, body in rest if site.va not in group]
        given |= chosen
    return given


def _regions(scanned: ScanResult) -> Regions:
    """The sections to lay out, with their padding."""
    found = {
        section.name: Region.of(scanned.code_map, scanned.zones, stream, ())
        for section, stream in scanned.code_map
        if section.name in LAID_OUT
    }
    return Regions(found[".text"], found.get(".init.text"), found.get(".text.behind"))


def _room_len(scanned: ScanResult) -> int:
    """Bytes that thunks and runtime take, each aligned, and annotations that lie with them."""
    thunks = build_thunks(scanned.rewritten, 0)
    code_len = _aligned(len(thunks.code)) + _aligned(runtime_len(scanned.code_map))
    return code_len + _records_len(scanned)


def _records_len(scanned: ScanResult) -> int:
    """Bytes that annotations take at most in the room after .text."""
    if not records_in_room(scanned.code_map.start):
        return 0
    return _aligned(most_records(scanned.sites, build_thunks(scanned.rewritten, 0)))


def _free(placement: Placement, needed: int) -> int:
    """Bytes of the room that thunks and runtime leave."""
    return placement.room_end_va - _room_start(placement) - needed


def _room_start(placement: Placement) -> int:
    return _aligned(placement.text_end_va)


def _aligned(value: int) -> int:
    return -(-value // ROOM_ALIGN) * ROOM_ALIGN
