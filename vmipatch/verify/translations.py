# SPDX-License-Identifier: MIT
"""Does every shape of translation do what its instruction does? What verify keeps of that check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from vmipatch.choices import STATES, Flavor
from vmipatch.emu.processor.engine import CpuFailed
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom
from vmipatch.verify.sites import SitesReport, check_sites
from vmipatch.verify.sites.check import SiteFinding

_VALUE_LEN: Final = 60


@dataclass(frozen=True, slots=True)
class Translations:
    """The result of executing each shape of site natively and translated."""

    shapes: int
    sites: int
    findings: tuple[str, ...]
    """One line a shape: where, and in what it differs."""
    states: int = STATES
    """Executions of each shape, on either side."""
    faults: int = 0
    """How many of them ended in a fault of the instruction, on either side the same."""
    left_out: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Instructions that stay native and were not executed, by kind."""


def check_translations(
    output: ElfImage, states: int = STATES, tell: Callable[[str], None] | None = None
) -> Translations:
    """Execute one site of each shape on both sides, from the same random states.

    `tell` is told from time to time how far it is, in words.
    """
    rom = build_rom(Flavor.PARAVIRT).data
    try:
        report = check_sites(output, rom, states=states, tell=tell)
    except (InputNotUnderstood, CpuFailed) as error:
        # A kernel that is not the one that was rewritten may not come as far as start_kernel.
        return Translations(0, 0, (str(error),))
    return Translations(
        len(report.shapes),
        report.sites,
        _lines(output, report),
        states,
        report.faults,
        report.left_out,
    )


def _lines(output: ElfImage, report: SitesReport) -> tuple[str, ...]:
    first: dict[str, SiteFinding] = {}
    for finding in report.findings:
        first.setdefault(finding.shape, finding)
    return tuple(_line(output, finding) for finding in first.values())


def _line(output: ElfImage, finding: SiteFinding) -> str:
    place = output.symbols.place_of(finding.va)
    what = "; ".join(f"{d.field}: {_short(str(d))}" for d in finding.differences)
    return f"{place} ({finding.va:#x}): {finding.shape}, seed {finding.seed}: {what}"


def _short(text: str) -> str:
    return text if len(text) <= _VALUE_LEN else f"{text[:_VALUE_LEN]}..."
