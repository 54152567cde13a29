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
from vmipatch.scan.site import Reason
from vmipatch.tables.table import Role, TableName


@dataclass(frozen=True, slots=True)
class Zone:
    """A range that is not laid out anew."""

    start_va: int
    end_va: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class CopiedRoutine:
    """A routine whose source computes with its own length; nothing in the file says so."""

    start_symbol: str
    end_symbol: str | None
    """The symbol behind it; None: its own size, or up to the next function."""
    reason: Reason
    source: str


_KEXEC = "arch/x86/kernel/relocate_kernel_32.S: kexec copies it with all that follows there"

COPIED_ROUTINES = (
    CopiedRoutine("relocate_kernel", None, Reason.COPIED, _KEXEC),
    CopiedRoutine("identity_mapped", None, Reason.COPIED, _KEXEC),
    CopiedRoutine("virtual_mapped", None, Reason.COPIED, _KEXEC),
    CopiedRoutine("swap_pages", None, Reason.COPIED, _KEXEC),
    CopiedRoutine("core_restore_code", None, Reason.COPIED, "arch/x86/power/hibernate_asm_32.S"),
    CopiedRoutine("restore_image", None, Reason.COPIED, "arch/x86/power/hibernate_asm_32.S"),
    CopiedRoutine("wakeup_pmode_return", None, Reason.COPIED, "arch/x86/kernel/acpi/wakeup_32.S"),
    CopiedRoutine("bios32_service", None, Reason.FIRMWARE, "arch/x86/pci/pcbios.c"),
    CopiedRoutine("pnp_bios_callfunc", None, Reason.FIRMWARE, "drivers/pnp/pnpbios/bioscalls.c"),
    CopiedRoutine(
        "optprobe_template_entry",
        "optprobe_template_end",
        Reason.COPIED,
        "arch/x86/kernel/kprobes/opt.c",
    ),
)

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
        zones += [Zone(start, end, Reason.COPIED) for start, end in code_map.pages]
        zones += _emulated(code_map)
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
        yield Zone(start.va, end_va, routine.reason)


def _emulated(code_map: CodeMap) -> Iterator[Zone]:
    """Prefixes of Xen with the instruction that each is for."""
    for _, stream in code_map:
        for at in emulated_prefixes(stream.code):
            va = stream.va + at
            yield Zone(va, va + len(XEN_PREFIX) + len(CPUID), Reason.EMULATED)


def _next_label(image: ElfImage, va: int) -> int:
    """The first function behind `va`, or the end of its section."""
    section = image.section_at(va)
    if section is None:
        return va
    entries = image.symbols.entries
    functions = entries["value"][entries["info"] & 15 == STT_FUNC]
    behind = functions[(va < functions) & (functions < section.end_va)]
    return int(behind.min(initial=section.end_va))
