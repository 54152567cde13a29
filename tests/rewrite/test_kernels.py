# SPDX-License-Identifier: MIT
"""On real kernels: how much is rewritten, and does everything else stay where it must?"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import SHN_ABS, STT_OBJECT
from vmipatch.scan.site import Disposition, Reason
from vmipatch.vmi.record import RECORD_LEN

pytestmark = pytest.mark.kernels

Kernel = Callable[[str], Path]
each_kernel = pytest.mark.parametrize("name", ("tiny", "tiny-os", "smp-pae"))
LEAST_REWRITTEN = 0.99
LEFT_FOR_ITS_FAULT = frozenset(
    {"lgdt", "lidt", "lldt", "ltr", "sgdt", "sidt", "sldt", "str", "smsw", "ins", "outs"}
)
"""Kinds that stay native so that a fault of the operand arrives at them (decision 0028)."""
WRITE_CR0 = bytes.fromhex("0f22c0")
"""mov cr0, eax"""
OF_THE_REWRITER = (".vmi.", ".rel.vmi.", "__vmi_")
LEFT_FOR_GOOD_REASON = {
    Reason.BEFORE_PAGING,
    Reason.NO_CALL,
    Reason.NEVER_A_CALL,
    Reason.ALTERNATIVE,
    Reason.COPIED,
    Reason.FIXED_STRIDE,
    Reason.FIRMWARE,
    Reason.PATCHED,
    Reason.NO_TRANSLATION,
}
"""Why a site of .text or .init.text may stay native in these kernels."""


@dataclass(frozen=True)
class Pair:
    """A kernel before and after."""

    before: ElfImage
    after: ElfImage
    manifest: dict[str, object]

    @property
    def is_absorbed(self) -> bool:
        """Whether nothing after .text had to move."""
        return self.manifest["mode"] == "absorb"

    @property
    def shift_len(self) -> int:
        """By how much everything after .text moved."""
        shift = self.manifest["shift_len"]
        assert isinstance(shift, int)
        return shift

    def native_in_laid_out_sections(self) -> Counter[tuple[Disposition, Reason]]:
        """Sites of .text and .init.text that were left native, by disposition and reason."""
        sections = [self.after.section_by_name[name] for name in (".text", ".init.text")]
        native = self.manifest["native"]
        assert isinstance(native, list)
        return Counter(
            (Disposition(site["disposition"]), Reason(site["reason"]))
            for site in native
            if any(site["va"] in section for section in sections)
        )

    def native_without_paging(self) -> int:
        """Sites that kexec's copy executes when it has turned paging off (relocate_kernel_32.S)."""
        routine = self.after.symbols.by_name.get("identity_mapped")
        if routine is None:
            return 0
        code = self.after.read(routine.va, routine.size)
        off_va = routine.va + code.index(WRITE_CR0) + len(WRITE_CR0)
        native = self.manifest["native"]
        assert isinstance(native, list)
        return sum(off_va <= site["va"] < routine.va + routine.size for site in native)

    def native_for_its_fault(self) -> list[tuple[int, Disposition, str]]:
        """Address, disposition and kind of each site that no thunk may stand for."""
        native = self.manifest["native"]
        assert isinstance(native, list)
        return [
            (site["va"], Disposition(site["disposition"]), site["kind"])
            for site in native
            if site["reason"] == Reason.NO_TRANSLATION.value
        ]

    def rewritten(self) -> int:
        """Number of annotated sites."""
        names = (".vmi.annotation", ".vmi.annotation.init")
        return sum(self.after.section_by_name[n].size for n in names) // RECORD_LEN


@cache
def load(before: Path, after: Path) -> Pair:
    images = [ElfImage.parse(path.read_bytes(), path.name) for path in (before, after)]
    manifest = images[1].section_bytes(images[1].section_by_name[".vmi.manifest"])
    return Pair(images[0], images[1], json.loads(manifest))


@pytest.fixture
def pair(kernel: Kernel, rewritten: Kernel, name: str) -> Pair:
    return load(kernel(name), rewritten(name))


@each_kernel
def test_nearly_every_site_after_the_switch_is_rewritten(pair: Pair) -> None:
    left = pair.native_in_laid_out_sections()
    late = sum(n for (_, reason), n in left.items() if reason is not Reason.BEFORE_PAGING)
    late -= pair.native_without_paging() + len(pair.native_for_its_fault())
    rewritten = pair.rewritten()
    assert rewritten > 2000
    share = rewritten / (rewritten + late)
    listing = "".join(f"\n{n:5} {d.value}: {r.value}" for (d, r), n in sorted_counts(left))
    assert share >= LEAST_REWRITTEN, f"{share:.2%}{listing}"


def sorted_counts(
    left: Counter[tuple[Disposition, Reason]],
) -> list[tuple[tuple[Disposition, Reason], int]]:
    return sorted(left.items(), key=lambda item: (-item[1], item[0][1].value))


@each_kernel
def test_what_is_left_native_has_a_reason_that_holds(pair: Pair) -> None:
    left = pair.native_in_laid_out_sections()
    assert {reason for _, reason in left} <= LEFT_FOR_GOOD_REASON


@each_kernel
def test_silently_wrong_instructions_stay_only_where_nobody_runs_deprivileged(pair: Pair) -> None:
    left = pair.native_in_laid_out_sections()
    silent = {r for d, r in left if d is Disposition.NATIVE_UNPRIVILEGED}
    replaced = {Reason.NO_TRANSLATION}  # by a hlt, see the next test
    assert silent - replaced <= {Reason.BEFORE_PAGING, Reason.COPIED, Reason.FIRMWARE}


@each_kernel
def test_what_stays_for_its_fault_is_of_known_kinds_and_has_a_fallback(pair: Pair) -> None:
    left = pair.native_for_its_fault()
    assert {kind for _, _, kind in left} <= LEFT_FOR_ITS_FAULT
    silent = {va for va, d, _ in left if d is Disposition.NATIVE_UNPRIVILEGED}
    table = pair.after.section_bytes(pair.after.section_by_name[".vmi.fallback"])
    entries = {va for (va, *_) in struct.iter_unpack("<I4x", table)}
    assert silent <= entries


@each_kernel
def test_manifest_counts_the_records(pair: Pair) -> None:
    counts = pair.manifest["sites"]
    assert isinstance(counts, dict)
    assert counts[Disposition.REWRITTEN.value] == pair.rewritten()


def test_kernels_with_padding_absorb_and_one_without_shifts(
    kernel: Kernel, rewritten: Kernel
) -> None:
    modes = {
        name: load(kernel(name), rewritten(name)).manifest["mode"]
        for name in ("tiny", "tiny-os", "smp-pae")
    }
    assert modes == {"tiny": "absorb", "tiny-os": "shift", "smp-pae": "absorb"}


@each_kernel
def test_every_section_is_kept(pair: Pair) -> None:
    ours = [s for s in pair.after.sections if not s.name.startswith(OF_THE_REWRITER)]
    assert [(s.name, s.kind, s.flags, s.align) for s in ours] == [
        (s.name, s.kind, s.flags, s.align) for s in pair.before.sections
    ]


@each_kernel
def test_every_symbol_is_kept(pair: Pair) -> None:
    before, after = pair.before.symbols, pair.after.symbols
    kept = after.entries[: len(before)]
    for column in ("name", "info", "other", "shndx"):
        assert np.array_equal(before.entries[column], kept[column]), column
    assert after.strings.startswith(before.strings)
    added = [after[i].name for i in range(len(before), len(after))]
    assert added
    assert all(name.startswith("__vmi_") for name in added)


@each_kernel
def test_sections_after_text_move_together_or_not_at_all(pair: Pair) -> None:
    """All by the shift; code right after .init.text a bit further, after its growth."""
    assert pair.is_absorbed is (pair.shift_len == 0)
    end_va = pair.before.section_by_name[".text"].end_va
    init = pair.before.section_by_name[".init.text"]
    for old in (s for s in pair.before.allocated_sections if s.va >= end_va):
        moved = pair.after.sections[old.index].va - old.va - pair.shift_len
        if old.is_exec and 0 <= old.va - init.end_va < old.align:
            assert 0 <= moved < 0x1000
        else:
            assert moved == 0, old.name
    for name in (".rodata", ".data", ".init.text", ".init.data"):
        assert pair.after.section_by_name[name].va % 0x1000 == 0


@each_kernel
def test_data_symbols_move_with_their_sections_only(pair: Pair) -> None:
    before, after = pair.before.symbols.entries, pair.after.symbols.entries
    after = after[: len(before)]
    text_end_va = pair.before.section_by_name[".text"].end_va
    is_data = (before["info"] & 15 == STT_OBJECT) & (before["value"] >= text_end_va)
    is_data &= (before["shndx"] > 0) & (before["shndx"] < SHN_ABS)
    assert is_data.sum() > 1000
    moved = after["value"][is_data].astype(np.int64) - before["value"][is_data]
    assert np.unique(moved).tolist() == [pair.shift_len]
    assert np.array_equal(after["size"][is_data], before["size"][is_data])


@each_kernel
def test_functions_keep_their_order_and_do_not_overlap(pair: Pair) -> None:
    before, after = pair.before.symbols.entries, pair.after.symbols.entries
    for section_name in (".text", ".init.text"):
        section = pair.after.section_by_name[section_name]
        mine = np.flatnonzero(
            (before["shndx"] == section.index) & (before["info"] & 15 == 2) & (before["size"] > 0)
        )
        mine = mine[np.argsort(before["value"][mine], kind="stable")]
        old, new = before[mine], after[mine]
        assert (np.diff(new["value"].astype(np.int64)) >= 0).all()
        apart = old["value"][:-1] + old["size"][:-1] <= old["value"][1:]
        still = new["value"][:-1] + new["size"][:-1] <= new["value"][1:]
        assert (still | ~apart).all()
        assert (new["value"] + new["size"] <= section.end_va).all()


@each_kernel
def test_every_loaded_byte_lies_in_one_segment(pair: Pair) -> None:
    loads = list(pair.after.loads)
    for section in (s for s in pair.after.allocated_sections if s.size):
        holders = [s for s in loads if s.va <= section.va < s.va + s.mem_len]
        assert len(holders) == 1, section.name
        assert section.end_va <= holders[0].va + holders[0].mem_len
        if section.has_bytes:
            assert section.off - holders[0].off == section.va - holders[0].va
            assert section.end_va <= holders[0].va + holders[0].file_len


@each_kernel
def test_added_code_lies_in_the_last_pages_of_text(pair: Pair) -> None:
    text, room = (pair.after.section_by_name[name] for name in (".text", ".vmi.text"))
    assert text.end_va <= room.va
    assert room.end_va <= pair.after.section_by_name[".rodata"].va
    assert room.end_va % 0x1000 == 0
