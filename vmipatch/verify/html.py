# SPDX-License-Identifier: MIT
"""The parts that the pages of a verdict are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Final

from vmipatch.errors import escaped

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
    """A part of the page, which a link can name by its title; `body` is HTML already."""
    name = title.lower().replace(" ", "-")
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title">{escape(title)}</h2>\n{body}</section>\n'
    )


def printable(text: str) -> str:
    """The words of a file or a guest for a page: control characters are escaped."""
    return escaped(text, "\n\t")


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Iterable[int] = (),
) -> str:
    """Cells are HTML already; the columns `right` hold numbers. A column without a name is a
    drawing of the one before it, and hidden from readers that do not see.
    """
    numeric = frozenset(right)
    kinds = [
        " class=n" if index in numeric else "" if name else " class=drawn"
        for index, name in enumerate(header)
    ]

    def shown(row: Sequence[str], tag: str, scope: str = "") -> str:
        return "".join(
            f"<{tag}{kind}{scope if cell else ''}>{cell}</{tag}>"
            for cell, kind in zip(row, kinds, strict=True)
        )

    body = "".join(f"<tr>{shown(row, 'td')}</tr>\n" for row in rows)
    head = shown([escape(text) for text in header], "th", ' scope="col"')
    return (
        f'<div class="wide" tabindex="0"><table>\n<caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def bar(parts: Sequence[tuple[float, str]], length: int = BAR_LEN) -> str:
    """Rectangles over each other, each a share of the length and a class of the style sheet."""
    rectangles = "".join(
        f'<rect class="{kind}" width="{share * length:.1f}" height="{BAR_HEIGHT}" rx="2"/>'
        for share, kind in parts
    )
    return f'<svg width="{length}" height="{BAR_HEIGHT}" aria-hidden="true">{rectangles}</svg>'


def code(text: str) -> str:
    """A name or path, as it is."""
    return f"<code>{escape(escaped(text))}</code>" if text else ""
