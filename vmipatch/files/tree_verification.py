# SPDX-License-Identifier: MIT
"""Is each module of a tree what it was made from? The verdict about all, and its papers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vmipatch.errors import EnvironmentProblem, InputNotUnderstood, VmipatchError
from vmipatch.files.entry import Entry, FileOutcome
from vmipatch.files.file import read_file
from vmipatch.files.kind import require_pair
from vmipatch.files.nodes import Node, NodeKind, is_module_name, unpacked_name
from vmipatch.files.pool import run_all
from vmipatch.files.tree_copy import Watch
from vmipatch.files.tree_report import tree_report
from vmipatch.names import base_name, relative_name, without_directory
from vmipatch.verify.certificate import NEVER_COVERED, NOT_DONE_OF_MODULES, signatures
from vmipatch.verify.made_by import tool
from vmipatch.verify.report_html_tree import TreeRow, html_tree_report
from vmipatch.verify.report_json import static_file_json
from vmipatch.verify.report_sarif import sarif
from vmipatch.verify.static import RULES
from vmipatch.verify.verdict import Statement

if TYPE_CHECKING:
    from vmipatch.files.tree import ModuleTree

CERTIFICATE_SCHEMA: Final = "vmipatch.tree-certificate/1"
NOT_COMPARED: Final = (
    "files that are not modules, such as modules.dep: depmod makes them anew",
    "depmod -b DIR, or a comparison of the two directories",
)


@dataclass(frozen=True, slots=True)
class TreeVerification:
    """The verdict about a tree, and the papers that can be written of it."""

    tree: str
    """The directory that was verified."""
    original: str
    """The one that it was made from."""
    entries: tuple[Entry, ...] = field(repr=False)
    """Of modules and of links that are named as modules, by path."""

    @property
    def holds(self) -> bool:
        """Whether every module is proven."""
        return not any(entry.is_wrong for entry in self.entries)

    @property
    def statement(self) -> str:
        """The verdict in one line."""
        statement = Statement.PROVEN if self.holds else Statement.FAILS
        return statement.value

    def report(self) -> dict[str, Any]:
        """The JSON report (docs/schemas/tree-1.json)."""
        return tree_report(self.tree, self.entries)

    def certificate(self) -> dict[str, Any]:
        """The proofs of each module, with hashes (docs/schemas/tree-certificate-1.json)."""
        return {
            "holds": self.holds,
            "statement": self.statement,
            "rules": [rule.number for rule in RULES],
            "modules": [
                {
                    "path": entry.path,
                    "outcome": entry.outcome.value,
                    "input_sha256": entry.input_sha256 or None,
                    "output_sha256": entry.output_sha256 or None,
                    "broken": {r.number: n for r, n in entry.static.totals.items()}
                    if entry.static
                    else {},
                    "counts": dict(entry.static.counts) if entry.static else {},
                    "file": static_file_json(entry.static),
                    "signatures": signatures(entry.static),
                    "message": without_directory(entry.message, entry.path),
                }
                for entry in self.entries
            ],
            "not_done": [
                {"what": what, "how": how} for what, how in (*NOT_DONE_OF_MODULES, NOT_COMPARED)
            ],
            "never_covered": list(NEVER_COVERED),
            "tool": tool(),
        }

    def subjects(self) -> list[tuple[str, str]]:
        """Path and SHA-256 of each module of the tree that was read."""
        return [(e.path, e.output_sha256) for e in self.entries if e.output_sha256]

    def sarif(self) -> bytes:
        """The findings of all modules as SARIF 2.1.0."""
        tree = relative_name(self.tree)
        return sarif([(os.path.join(tree, entry.path), entry.static) for entry in self.entries])

    def html(self) -> str:
        """The verdict as a page."""
        rows = [
            TreeRow(
                entry.path, entry.outcome.value, entry.sites,
                without_directory(entry.message, entry.path), entry.is_wrong,
                entry.input_sha256, entry.output_sha256,
            )
            for entry in self.entries
        ]  # fmt: skip
        names = base_name(self.tree), base_name(self.original)
        return html_tree_report(*names, self.statement, rows, self.certificate())


def verify_tree(
    tree: ModuleTree,
    original: ModuleTree,
    executor: Executor | None,
    jobs: int | None,
    watch: Watch | None,
) -> TreeVerification:
    """As ModuleTree.verify says."""
    require_pair(tree.kind, original.kind, tree.name)
    was = {node.path: node for node in original.nodes}
    now = {node.path: node for node in tree.nodes}
    places = _packed_since(was, now)
    now = {path: now[places.get(path, path)] for path in _paths(now, places)}
    if not any(node.kind is NodeKind.MODULE for node in was.values()):
        raise InputNotUnderstood(
            "there is no module in it, so nothing is proven",
            file=original.name,
            hint="name the directory that was rewritten",
        )
    entries = list(_unlike(original.root, tree.root, was, now))
    wrong = {entry.path for entry in entries}
    wanted = [n for n in was.values() if n.kind is NodeKind.MODULE and n.path not in wrong]
    for entry in run_all(wanted, _Verify(original.root, tree.root, places), executor, jobs):
        entries.append(entry)
        if watch is not None:
            watch(entry)
    entries.sort(key=lambda entry: entry.path)
    return TreeVerification(tree.name, original.name, tuple(entries))


def _packed_since(was: Mapping[str, Node], now: Mapping[str, Node]) -> dict[str, str]:
    """From modules of the original to those that have their name with another packing's suffix."""
    missing = {unpacked_name(p): p for p in was if is_module_name(p) and p not in now}
    found: dict[str, list[str]] = {}
    for path in sorted(p for p in now if is_module_name(p) and p not in was):
        found.setdefault(unpacked_name(path), []).append(path)
    return {missing[n]: paths[0] for n, paths in found.items() if n in missing and len(paths) == 1}


def _paths(now: Mapping[str, Node], places: Mapping[str, str]) -> Iterator[str]:
    """Paths of the output, those of modules that were packed since as the original has them."""
    moved = set(places.values())
    yield from (path for path in now if path not in moved)
    yield from places


def _unlike(
    original: str, tree: str, was: Mapping[str, Node], now: Mapping[str, Node]
) -> Iterator[Entry]:
    """Entries that are named as a module, and are not a module in both trees."""
    for path in sorted(was.keys() | now.keys()):
        old, new = was.get(path), now.get(path)
        if not is_module_name(path) or _are(old, new, NodeKind.MODULE):
            continue
        if _are(old, new, NodeKind.DIRECTORY) or _are(old, new, NodeKind.SPECIAL):
            continue
        if _are(old, new, NodeKind.LINK):
            goals = [_goal(os.path.join(root, path)) for root in (original, tree)]
            if goals[0] == goals[1]:
                yield Entry(path, FileOutcome.COPIED)
            else:
                message = f"the link points to {goals[1]}, that of the original to {goals[0]}"
                yield Entry(path, FileOutcome.REFUTED, message=message)
        elif old is None:
            yield Entry(path, FileOutcome.REFUTED, message="it has no original")
        elif new is None:
            message = f"it is missing: the original has a {old.kind.value} here"
            yield Entry(path, FileOutcome.REFUTED, message=message)
        else:
            message = f"it is a {new.kind.value}, in the original a {old.kind.value}"
            yield Entry(path, FileOutcome.REFUTED, message=message)


def _goal(path: str) -> str:
    """Where a link points. Raises EnvironmentProblem."""
    try:
        return os.readlink(path)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot be read: {error.strerror}", file=path, hint="check its permissions"
        ) from error


def _are(old: Node | None, new: Node | None, kind: NodeKind) -> bool:
    return old is not None and new is not None and old.kind is new.kind is kind


@dataclass(frozen=True, slots=True)
class _Verify:
    """Proves one module of a rewritten tree."""

    original: str
    tree: str
    places: Mapping[str, str] = field(hash=False)
    """Of modules that were packed since, or unpacked: from the original's path to their own."""

    def __call__(self, node: Node) -> Entry:
        from vmipatch.files.tree import open_module

        path, place = node.path, os.path.join(self.tree, self.places.get(node.path, node.path))
        try:
            was = open_module(read_file(os.path.join(self.original, path)), path)
            return open_module(read_file(place), place).verify(was).entry(path)
        except VmipatchError as error:
            return Entry.failed(path, error.in_file(place))
