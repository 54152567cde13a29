# SPDX-License-Identifier: MIT
"""Is every command measured on a tree of modules?"""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import tree_lines
from benchmarks.tree_speed import measure
from tests.restore.test_module import sample


def test_commands_are_measured_on_all_modules(tmp_path: Path) -> None:
    for name in ("one.ko", "two.ko"):
        (tmp_path / name).write_bytes(sample())
    (tmp_path / "modules.order").write_text("one.ko\n")
    costs = measure("small", tmp_path)
    assert costs.modules == 2
    assert [each.command for each in costs.commands] == ["rewrite", "verify", "restore"]
    assert all(each.cost.cpu_s > 0 and each.cost.peak_len > 1 << 20 for each in costs.commands)
    assert sum("--tree" in line for line in tree_lines(costs)) == len(costs.commands)
