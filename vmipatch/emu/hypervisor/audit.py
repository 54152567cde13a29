# SPDX-License-Identifier: MIT
"""Which instructions of a paravirtual kernel had to be emulated after all?"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.report import EmulatedInstruction
from vmipatch.isa.trapped import TrappedInstruction

MOST_FINDINGS: Final = 1 << 16
"""Ten times the sensitive instructions of the largest kernel: beyond it a guest plays."""


class AuditLog:
    """Instructions emulated in a paravirtual kernel, by place and bytes."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, TrappedInstruction], int] = {}
        self.lost = 0
        """How often an instruction was emulated at a place for which there was no room any more."""

    def note(self, va: int, instruction: TrappedInstruction) -> None:
        """The instruction at `va` was emulated once more."""
        key = (va, instruction)
        count = self._counts.get(key, 0)
        if count or len(self._counts) < MOST_FINDINGS:
            self._counts[key] = count + 1
        else:
            self.lost += 1

    def findings(self) -> tuple[EmulatedInstruction, ...]:
        """In the order of the addresses."""
        found = (
            EmulatedInstruction(va, taken.code, taken.form.name, taken.form.is_unprivileged, count)
            for (va, taken), count in self._counts.items()
        )
        return tuple(sorted(found, key=lambda finding: (finding.va, finding.code)))
