# SPDX-License-Identifier: MIT
"""Which ranges of code must keep their bytes and lengths, and for which reason."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_FUNC
from vmipatch.isa.emulated import CPUID, XEN_PREFIX, emulated_prefixes
from vmipatch.scan.before_paging import ranges_before_paging
from vmipatch.scan.code import CodeMap
from vmipatch.scan.own_address import folded_ranges
from vmipatch.scan.site import Reason
from vmipatch.tables.copied_routines import COPIED_ROUTINES
from vmipatch.tables.table import Role, TableName


@dataclass(frozen=True, slots=True)
class Zone:
    """A range that is not laid out anew."""

    start_va: int
    end_va: int
    reason: Reason


_PATCHED_BY_KERNEL = (
    (TableName.ALTERNATIVES, Role.INSTRUCTION, Reason.ALTERNATIVE),
    (TableName.ALTERNATIVES, Role.REPLACEMENT, Reason.REPLACEMENT),
    (TableName.PARAINSTRUCTIONS, Role.INSTRUCTION, Reason.ALTERNATIVE),
    (TableName.JUMP_TABLE, Role.INSTRUCTION, Reason.PATCHED),
    (TableName.MCOUNT, Role.INSTRUCTION, Reason.PATCHED),
    (TableName.STATIC_CALLS, Role.INSTRUCTION, Reason.PATCHED),
)
_STUBS = (TableName.IRQ_STUBS, TableName.SPURIOUS_STUBS, TableName.EARLY_STUBS)


class Zones:
    """All zones of an image, for look-ups by address."""

    def __init__(self, zones: list[Zone]) -> None:
        """Take `zones`; where two overlap, the one that begins later rules."""
        self._zones = sorted(zones, key=lambda zone: (zone.start_va, -zone.end_va))
        self._starts = [zone.start_va for zone in self._zones]
        self._reach: list[int] = []
        for zone in self._zones:
            self._reach.append(max(zone.end_va, self._reach[-1] if self._reach else 0))

    def __iter__(self) -> Iterator[Zone]:
        return iter(self._zones)

    def over(self, start_va: int, end_va: int) -> Zone | None:
        """A zone that overlaps [start_va, end_va), or None."""
        at = bisect_right(self._starts, end_va - 1) - 1
        while at >= 0 and self._reach[at] > start_va:
            if self._zones[at].end_va > start_va:
                return self._zones[at]
            at -= 1
        return None

    @classmethod
    def of(cls, code_map: CodeMap) -> Zones:
        """Everything in the image that must keep its bytes and lengths."""
        zones = [
            Zone(start, end, Reason.BEFORE_PAGING) for start, end in ranges_before_paging(code_map)
        ]
        for name, role, reason in _PATCHED_BY_KERNEL:
            places = code_map.tables.places(name, role)
            starts, lens = places["va"].tolist(), places["len"].tolist()
            zones += [
                Zone(va, va + length, reason) for va, length in zip(starts, lens, strict=True)
            ]
        for name in _STUBS:
            table = code_map.tables.get(name)
            if table is not None:
                zones.append(Zone(table.start_va, table.end_va, Reason.FIXED_STRIDE))
        zones += [Zone(a.start_va, a.last_va, Reason.FIXED_STRIDE) for a in code_map.arrays]
        zones += _copied(code_map.image)
        zones += [
            Zone(start, end, Reason.COPIED)
            for start, end in (*code_map.pages, *code_map.kept.named)
        ]
        zones += _emulated(code_map)
        copied = [zone for zone in zones if zone.reason is Reason.COPIED]
        zones += [
            Zone(start, end, Reason.OWN_ADDRESS)
            for label, start, end in folded_ranges(code_map)
            # A copy reads its own address where it runs, and is kept whole.
            if not any(zone.start_va <= label < zone.end_va for zone in copied)
        ]
        return cls(zones)


def _copied(image: ElfImage) -> Iterator[Zone]:
    for routine in COPIED_ROUTINES:
        start = image.symbols.by_name.get(routine.start_symbol)
        if start is None:
            continue
        end_va = start.va + start.size
        if routine.end_symbol is not None:
            end_va = image.symbols.address(routine.end_symbol) or end_va
        elif not start.size:
            end_va = _next_label(image, start.va)
        reason = Reason.FIRMWARE if routine.calls_firmware else Reason.COPIED
        yield Zone(start.va, end_va, reason)


def _emulated(code_map: CodeMap) -> Iterator[Zone]:
    """Prefixes of Xen with the instruction that each is for."""
    for _, stream in code_map:
        for at in emulated_prefixes(stream.code):
            va = stream.va + at
            yield Zone(va, va + len(XEN_PREFIX) + len(CPUID), Reason.EMULATED)


def _next_label(image: ElfImage, va: int) -> int:
    """The first function after `va`, or the end of its section."""
    section = image.section_at(va)
    if section is None:
        return va
    entries = image.symbols.entries
    functions = entries["value"][entries["info"] & 15 == STT_FUNC]
    following = functions[(va < functions) & (functions < section.end_va)]
    return int(following.min(initial=section.end_va))
