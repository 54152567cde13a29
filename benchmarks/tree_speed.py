# SPDX-License-Identifier: MIT
"""How long does vmipatch take on all modules of a distribution's kernel, and how much memory?

One round only: thousands of modules are a sample by themselves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rewrite_speed import VMIPATCH, ProcessUse, run
from vmipatch.files.pool import processors
from vmipatch.files.tree import ModuleTree

KERNEL = "debian-686"
AIM_S = 180.0
"""Seconds of wall time that rewriting and proving may take, on two processors."""


@dataclass(frozen=True, slots=True)
class TreeCost:
    """One command on a whole tree."""

    command: str
    cost: ProcessUse
    """Processor time is that of all processes; memory that of the largest one."""


@dataclass(frozen=True, slots=True)
class TreeCosts:
    """All commands on the modules of one kernel."""

    kernel: str
    modules: int
    processors: int
    commands: tuple[TreeCost, ...]


def measure(kernel: str, tree: Path) -> TreeCosts:
    """Rewrite, prove and restore all modules below `tree`. Raises EnvironmentProblem."""
    with tempfile.TemporaryDirectory() as scratch:
        output, back = str(Path(scratch) / "output"), str(Path(scratch) / "back")
        commands = tuple(
            TreeCost(command[0], run([*VMIPATCH, *command]))
            for command in _commands(str(tree), output, back)
        )
    modules = len(ModuleTree.of(str(tree)).modules)
    return TreeCosts(kernel, modules, processors(), commands)


def _commands(tree: str, output: str, back: str) -> Sequence[Sequence[str]]:
    return (
        ("rewrite", "--tree", tree, "-o", output),
        ("verify", "--tree", output, "--original", tree),
        ("restore", "--tree", output, "-o", back),
    )
