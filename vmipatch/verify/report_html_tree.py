# SPDX-License-Identifier: MIT
"""How does a person read the verdict about a tree of modules? As one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vmipatch.verify.html import code, page, printable, section, table


@dataclass(frozen=True, slots=True)
class TreeRow:
    """One module on the page."""

    path: str
    outcome: str
    sites: int
    message: str
    """Findings or an error, one a line."""
    is_wrong: bool


def html_tree_report(tree: str, original: str, statement: str, rows: Sequence[TreeRow]) -> str:
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
        sections.append(section("Findings", _rows(wrong)))
    sections.append(section("Modules", _rows([row for row in rows if not row.is_wrong])))
    return page(tree, sections)


def _rows(rows: Sequence[TreeRow]) -> str:
    return table(
        ["module", "outcome", "sites", ""],
        [
            [code(row.path), escape(row.outcome), f"{row.sites:,}", _lines(row.message)]
            for row in rows
        ],
        right={2},
    )


def _lines(message: str) -> str:
    return "<br>".join(escape(printable(line)) for line in message.splitlines())
