# SPDX-License-Identifier: MIT
"""Which sensitive instructions do the modules of a tree have?"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vmipatch.errors import VmipatchError
from vmipatch.files.entry import Entry, FileOutcome
from vmipatch.files.file import read_file, sha256_of
from vmipatch.files.nodes import Node
from vmipatch.files.pool import run_all
from vmipatch.files.tree_copy import Watch
from vmipatch.names import base_name, without_directory
from vmipatch.scan.site import Disposition

if TYPE_CHECKING:
    from vmipatch.files.tree import ModuleTree

SCHEMA: Final = "vmipatch.tree-scan/1"


@dataclass(frozen=True, slots=True)
class ScannedEntry(Entry):
    """A module, and the number of its sites by class and disposition."""

    counts: tuple[tuple[str, Disposition, int], ...] = ()


@dataclass(frozen=True, slots=True)
class TreeCensus:
    """The sites of all modules of a tree."""

    tree: str
    """The name of the directory."""
    modules: tuple[ScannedEntry, ...] = field(repr=False)
    """By path; one that is not understood has FAILED and a message."""

    def counts(self) -> Counter[tuple[str, Disposition]]:
        """Number of sites by class and by what becomes of them."""
        total: Counter[tuple[str, Disposition]] = Counter()
        for module in self.modules:
            total.update({(kind, what): count for kind, what, count in module.counts})
        return total

    def report(self) -> dict[str, Any]:
        """The JSON report (docs/schemas/tree-scan-1.json)."""
        return {
            "tree": base_name(self.tree),
            "modules": [
                {
                    "path": module.path,
                    "sha256": module.input_sha256 or None,
                    "message": without_directory(module.message, module.path),
                    "sites": [
                        {"class": kind, "disposition": what.value, "count": count}
                        for kind, what, count in module.counts
                    ],
                }
                for module in self.modules
            ],
        }


def scan_tree(
    tree: ModuleTree, executor: Executor | None, jobs: int | None, watch: Watch | None
) -> TreeCensus:
    """As ModuleTree.scan says."""
    found = []
    for entry in run_all(tree.modules, _Scan(tree.root), executor, jobs):
        assert isinstance(entry, ScannedEntry), "what the task returns"
        found.append(entry)
        if watch is not None:
            watch(entry)
    return TreeCensus(tree.name, tuple(sorted(found, key=lambda entry: entry.path)))


@dataclass(frozen=True, slots=True)
class _Scan:
    """Scans one module of a tree."""

    tree: str

    def __call__(self, node: Node) -> ScannedEntry:
        from vmipatch.files.tree import open_module

        place = os.path.join(self.tree, node.path)
        try:
            data = read_file(place)
            census = open_module(data, place).scan()
        except VmipatchError as error:
            return ScannedEntry.failed(node.path, error.in_file(place))
        for reason in census.tables_not_understood:
            message = f"{place}: {reason}"
            return ScannedEntry(node.path, FileOutcome.FAILED, message=message)
        counts = census.counts()
        rows = sorted(((k, d, n) for (k, d), n in counts.items()), key=lambda r: (r[0], r[1].value))
        return ScannedEntry(
            node.path, FileOutcome.UNTOUCHED, sum(counts.values()), input_sha256=sha256_of(data),
            counts=tuple(rows),
        )  # fmt: skip
