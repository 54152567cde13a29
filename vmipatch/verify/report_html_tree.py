# SPDX-License-Identifier: MIT
"""How does a person read the verdict about a tree of modules? As one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from vmipatch.verify.html import code, page, printable, section, table
from vmipatch.verify.html_certificate import not_done, versions


@dataclass(frozen=True, slots=True)
class TreeRow:
    """One module on the page."""

    path: str
    outcome: str
    sites: int
    message: str
    """Findings or an error, one a line."""
    is_wrong: bool
    input_sha256: str
    """Empty if the module could not be read, as the next one."""
    output_sha256: str


def html_tree_report(
    tree: str,
    original: str,
    statement: str,
    rows: Sequence[TreeRow],
    certificate: Mapping[str, Any],
) -> str:
    """The page; the same bytes for the same modules."""
    wrong = [row for row in rows if row.is_wrong]
    facts = [
        ("modules", f"{len(rows):,}"),
        ("sites annotated", f"{sum(row.sites for row in rows):,}"),
        ("refuted or failed", f"{len(wrong):,}"),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in facts)
    head = (
        f'<header class="{"bad" if wrong else "good"}">\n<h1>{code(tree)}</h1>\n'
        f'<p class="verdict">{escape(statement)}</p>\n<p>made from {code(original)}</p>\n'
        f'<div class="facts">{cells}</div>\n</header>\n'
    )
    sections = [head]
    if wrong:
        sections.append(section("Findings", _rows("Modules that are not proven", wrong)))
    proven = [row for row in rows if not row.is_wrong]
    sections.append(section("Not done", not_done(certificate)))
    sections.append(section("Modules", _rows("Modules that are proven", proven)))
    sections.append(section("Files", _hashes(rows)))
    sections.append(section("Versions", versions(certificate["tool"])))
    return page(tree, sections)


def _rows(caption: str, rows: Sequence[TreeRow]) -> str:
    return table(
        caption,
        ["module", "outcome", "sites", "message"],
        [
            [code(row.path), escape(row.outcome), f"{row.sites:,}", _lines(row.message)]
            for row in rows
        ],
        right={2},
    )


def _hashes(rows: Sequence[TreeRow]) -> str:
    """SHA-256 of each module, before and after."""
    cells = [[code(row.path), code(row.input_sha256), code(row.output_sha256)] for row in rows]
    whole = table("Modules, by SHA-256", ["module", "original", "verified"], cells)
    return f"<details><summary>{len(rows)} modules</summary>\n{whole}</details>\n"


def _lines(message: str) -> str:
    return "<br>".join(escape(printable(line)) for line in message.splitlines())
