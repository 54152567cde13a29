# SPDX-License-Identifier: MIT
"""Do two boots of a test kernel say the same? What /test printed, and what the kernel did.

What /test printed is compared exactly, the kernel's lines as vmipatch.verify.console has it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmipatch.verify.console import (
    RULES,
    as_multiset,
    complaints,
    in_order,
    is_smp,
    new_warnings,
    normalised,
)

__all__ = ["RULES", "GuestConsole", "compare", "complaints", "new_warnings"]

MARK_BEGIN = "VMI-MARK begin"
MARK_MESSAGES = "VMI-MARK kernel messages"
MARK_DONE = "VMI-MARK done"


@dataclass(frozen=True, slots=True)
class GuestConsole:
    """One boot's output, taken apart."""

    kernel: tuple[str, ...]
    """The kernel's lines, normalised."""
    test: tuple[str, ...]
    """Output of /test."""
    smp: bool
    """Whether several processors wrote the kernel's lines."""
    done: bool
    """Whether the test came to its end."""

    @classmethod
    def parse(cls, text: str) -> GuestConsole:
        """Take a console apart at the marks that /init prints."""
        boot, _, rest = text.partition(f"{MARK_BEGIN}\n")
        test, _, late = rest.partition(f"{MARK_MESSAGES}\n")
        lines = [*boot.splitlines(), *late.splitlines()]
        smp = is_smp(lines)
        kernel = normalised((line for line in lines if not line.startswith("VMI-MARK")), smp)
        return cls(tuple(kernel), tuple(test.splitlines()), smp, f"\n{MARK_DONE}\n" in text)


def compare(original: str, rewritten: str) -> list[str]:
    """The differences between two consoles: lines that begin with `-` or `+`, none if equal."""
    before, after = GuestConsole.parse(original), GuestConsole.parse(rewritten)
    differences = in_order(before.test, after.test)
    if before.smp:
        differences += as_multiset(before.kernel, after.kernel)
    else:
        differences += in_order(before.kernel, after.kernel)
    if before.done != after.done:
        differences.append("- done" if before.done else "+ done")
    return differences
