# SPDX-License-Identifier: MIT
"""How does a program read what became of a tree? As JSON, docs/schemas/tree-1.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from vmipatch.files.entry import Entry, FileOutcome
from vmipatch.names import base_name, without_directory

SCHEMA: Final = "vmipatch.tree/1"


def tree_report(tree: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """The report about the `entries` of `tree`; what was only copied is counted, not listed."""
    reasons: Counter[str] = Counter()
    for entry in entries:
        reasons.update(dict(entry.left.reasons))
    return {
        "tree": base_name(tree),
        "outcomes": dict(sorted(Counter(entry.outcome.value for entry in entries).items())),
        "sites": sum(entry.sites for entry in entries),
        "native": dict(sorted(reasons.items())),
        "added_len": sum(entry.added_len for entry in entries),
        "signatures": sum(1 for entry in entries if entry.signature_len),
        "files": [_file(entry) for entry in entries if entry.outcome is not FileOutcome.COPIED],
    }


def _file(entry: Entry) -> dict[str, Any]:
    return {
        "path": entry.path,
        "outcome": entry.outcome.value,
        "sites": entry.sites,
        "native": entry.left.count,
        "signature_len": entry.signature_len,
        "restore": entry.gives or None,
        "message": without_directory(entry.message, entry.path),
        "input_sha256": entry.input_sha256 or None,
        "output_sha256": entry.output_sha256 or None,
    }
