# SPDX-License-Identifier: MIT
"""The parts that the pages of a verdict are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Final

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""The page's own promise to load nothing."""
BAR_LEN: Final = 240
BAR_HEIGHT: Final = 12


def page(subject: str, sections: Iterable[str]) -> str:
    """A page about the file `subject`, which needs nothing but itself."""
    style = resources.files("vmipatch.verify").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>vmipatch verify: {escape(printable(subject))}</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """A part of the page; `body` is HTML already."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}</section>\n"


def printable(text: str) -> str:
    """What a file says of itself, without what a page cannot show."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Cells are HTML already; the columns `right` hold numbers."""
    numeric = frozenset(right)

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>\n" for row in rows)
    head = cells([escape(text) for text in header], "th")
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>\n'


def bar(parts: Sequence[tuple[float, str]], length: int = BAR_LEN) -> str:
    """Rectangles over each other, each a share of the length and a class of the style sheet."""
    rectangles = "".join(
        f'<rect class="{kind}" width="{share * length:.1f}" height="{BAR_HEIGHT}" rx="2"/>'
        for share, kind in parts
    )
    return f'<svg width="{length}" height="{BAR_HEIGHT}" aria-hidden="true">{rectangles}</svg>'


def code(text: str) -> str:
    """A name or path, as it is."""
    return f"<code>{escape(printable(text))}</code>" if text else ""
