# SPDX-License-Identifier: MIT
"""Does the plugin count right? On a boot sector whose counts are known, and on a small kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.counting import (
    CountedRange,
    CountingMachine,
    build_plugin,
    entry_pa,
    plugin_arguments,
    read_counts,
    reproducible,
    span_of,
    with_gaps,
)
from benchmarks.native_cost import growths, native_cost
from benchmarks.native_runs import added_ranges, executed
from tests.conftest import InitramfsBuilder, KernelFinder
from tests.support import qemu
from vmipatch.choices import Padding
from vmipatch.errors import EnvironmentProblem
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.wrap import wrap
from vmipatch.rewrite import RewriteOptions, rewrite

pytestmark = pytest.mark.qemu

SECTOR_VA = 0x7C00
SECTOR = bytes.fromhex(
    "fa"  # 7c00 cli: no interrupt of the firmware's is counted
    "b9e803"  # 7c01 mov cx, 1000
    "90"  # 7c04 nop
    "e2fd"  # 7c05 loop 7c04
    "31c0 8ec0"  # 7c07 xor ax, ax; mov es, ax
    "bf0080 b90a00"  # 7c0b mov di, 8000h; mov cx, 10
    "f3aa"  # 7c11 rep stosb
    "b0fe e664"  # 7c13 mov al, feh; out 64h, al: the keyboard controller resets the machine
    "f4"  # 7c17 hlt
)
BEFORE, NOP, LOOP, CLEAR, REPEATED, RESET = (
    CountedRange(0x7C00, 0x7C04),
    CountedRange(0x7C04, 0x7C05),
    CountedRange(0x7C05, 0x7C07),
    CountedRange(0x7C07, 0x7C11),
    CountedRange(0x7C11, 0x7C13),
    CountedRange(0x7C13, 0x7C17),
)
RANGES = (BEFORE, NOP, LOOP, CLEAR, REPEATED, RESET)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_plugin(tmp_path_factory.mktemp("plugin"))


def test_every_instruction_of_a_boot_sector_is_counted_once(plugin: Path, tmp_path: Path) -> None:
    sector = tmp_path / "sector"
    sector.write_bytes(SECTOR.ljust(510, b"\0") + b"\x55\xaa")
    result = tmp_path / "counts"
    extra = plugin_arguments(plugin, tmp_path / "ranges", RANGES, SECTOR_VA, result)
    command = [qemu.EMULATOR, "-accel", "tcg", "-nographic", "-no-reboot", "-nic", "none"]
    command += ["-drive", f"format=raw,file={sector}", *extra, *reproducible(2, 0)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=60, capture_output=True)
    counts = read_counts(result, RANGES)
    at = counts.at()
    assert [at[entry.start_va] for entry in (BEFORE, NOP, LOOP, CLEAR, RESET)] == [
        2, 1000, 1000, 4, 2,
    ]  # fmt: skip
    # QEMU may or may not look once more whether CX is 0; the hlt may come before the reset.
    assert counts.repeats == at[REPEATED.start_va] in (10, 11)
    assert counts.instructions - (2 + 1000 + 1000 + 4 + 2) in (0, 1)


def test_run_that_never_begins_is_an_error(plugin: Path, tmp_path: Path) -> None:
    result = tmp_path / "counts"
    result.write_text("begun 0\ntotal 0\nrepeats 0\n")
    with pytest.raises(EnvironmentProblem):
        read_counts(result, ())


def bzimage(image: ElfImage, path: Path) -> Path:
    path.write_bytes(wrap(image, relocation_list(image, Relocations.of(image))))
    return path


@pytest.mark.kernels
def test_rewritten_kernel_meets_the_nops_that_the_original_foretells(
    plugin: Path, kernel: KernelFinder, initramfs: InitramfsBuilder, tmp_path: Path
) -> None:
    original = ElfImage.parse(kernel("tiny").read_bytes(), "tiny")
    result = rewrite(original, RewriteOptions(Padding.NOP))
    padded = ElfImage.parse(result.data, "tiny")
    machine = CountingMachine(plugin, initramfs("workload.sh", ()))

    grown = growths(result)
    once = original.symbols.by_name["start_kernel"].va
    places = {once, *(growth.va for growth in grown)}
    watched = tuple(with_gaps((CountedRange(va, va + 1) for va in places), span_of(original)))
    before = machine.count(bzimage(original, tmp_path / "before"), entry_pa(original), watched)
    assert before.at()[once] == 1
    foretold = native_cost(grown, before.at(), before.instructions)
    assert 0 < foretold.per_cent < 0.45

    added = added_ranges(result)
    padded_ranges = tuple(with_gaps(added, span_of(padded)))
    after = machine.count(bzimage(padded, tmp_path / "after"), entry_pa(padded), padded_ranges)
    met = executed(after, [entry.start_va for entry in added])
    # The two runs drift apart: timer ticks fall elsewhere, processes are laid out otherwise.
    assert met == pytest.approx(foretold.added, rel=0.05)
