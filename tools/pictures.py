# SPDX-License-Identifier: MIT
"""How do the pictures of docs come to be? `python -m tools.pictures` draws docs/pictures/*.txt.

A text has a line for each box and each arrow; `#` begins a comment:

    title: words
    NAME | column | title / line / line        one row below the box before it in that column
    NAME @ OTHER | column | title / line       in the row of OTHER
    NAME -> NAME: words                        down, aside, or around the corner

A line that begins with a backtick is code. Columns are 0 (wide) and 1 (narrow). Colours follow the
reader's preference, light or dark.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PICTURES: Final = Path(__file__).parent.parent / "docs" / "pictures"
COLUMNS: Final = ((16, 262), (322, 182))
"""Left edge and width of each, in units of the picture."""
WIDTH: Final = 520
LINE, TITLE, PAD, GAP, EDGE = 18, 20, 10, 34, 16
LETTER, LETTER_OF_CODE = 6.4, 7.9
"""Width of a letter, on the average of a line, in a wide sans-serif and in a monospaced font."""
_BOX = re.compile(r"(\w+)(?: @ (\w+))? \| (\d) \| (.*)")
_ARROW = re.compile(r"(\w+) -> (\w+)(?:: (.*))?")
_STYLE = """\
svg { color-scheme: light dark }
.ground { fill: #ffffff } .box { fill: #eef3fb; stroke: #3b6ea8 } .file { fill: #fdf3e1 }
text { fill: #1b1f24; font: 13px sans-serif } .name { font: bold 14px sans-serif }
.code { font: 13px monospace } .words { font: italic 12px sans-serif }
.way { fill: none; stroke: #57606a; stroke-width: 1.5 } .tip { fill: #57606a }
@media (prefers-color-scheme: dark) {
.ground { fill: #14181d } .box { fill: #1d2a3a; stroke: #7fb0e8 } .file { fill: #3a2f1a }
text { fill: #e6e8ea } .way { stroke: #9aa4ae } .tip { fill: #9aa4ae }
}"""


@dataclass(frozen=True, slots=True)
class Box:
    """A box: what stands in it, and where it is."""

    name: str
    column: int
    lines: tuple[str, ...]
    """The title first."""
    y: int
    height: int

    @property
    def x(self) -> int:
        """Its left edge."""
        return COLUMNS[self.column][0]

    @property
    def width(self) -> int:
        """That of its column."""
        return COLUMNS[self.column][1]

    @property
    def bottom(self) -> int:
        """Its lower edge."""
        return self.y + self.height

    @property
    def middle(self) -> tuple[int, int]:
        """Its centre."""
        return self.x + self.width // 2, self.y + self.height // 2


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as its text says it."""

    title: str
    boxes: dict[str, Box]
    arrows: tuple[tuple[str, str, str], ...]
    """From, to, and the words beside it."""

    @classmethod
    def read(cls, text: str) -> Picture:
        """Raises ValueError for a line that is not understood."""
        title, boxes, arrows = "", dict[str, Box](), []
        ends = [EDGE] * len(COLUMNS)
        for line in filter(None, (each.partition("#")[0].strip() for each in text.splitlines())):
            if line.startswith("title: "):
                title = line.removeprefix("title: ")
            elif found := _BOX.fullmatch(line):
                name, beside, column, words = found.groups()
                lines = tuple(words.split(" / "))
                height = PAD + TITLE + LINE * (len(lines) - 1) + PAD // 2
                y = boxes[beside].y if beside else ends[int(column)]
                boxes[name] = Box(name, int(column), lines, y, height)
                ends[int(column)] = y + height + GAP
            elif found := _ARROW.fullmatch(line):
                arrows.append((found[1], found[2], found[3] or ""))
            else:
                raise ValueError(f"not a box, an arrow or a title: {line}")
        return cls(title, boxes, tuple(arrows))

    @property
    def height(self) -> int:
        """Down to below the last box."""
        return max(box.bottom for box in self.boxes.values()) + EDGE


def drawn(picture: Picture) -> str:
    """The picture as SVG."""
    title = html.escape(picture.title)
    parts = [_box(box) for box in picture.boxes.values()]
    parts += [
        part
        for start, end, words in picture.arrows
        for part in _arrow(picture.boxes[start], picture.boxes[end], words)
    ]
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {picture.height}" '
            f'width="{WIDTH}" height="{picture.height}" role="img" aria-labelledby="title">',
            # REUSE-IgnoreStart
            "<!-- SPDX-License-Identifier: MIT -->",
            # REUSE-IgnoreEnd
            "<!-- Drawn by python -m tools.pictures: change the text. -->",
            f'<title id="title">{title}</title>',
            f"<style>\n{_STYLE}\n</style>",
            '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker>',
            f'<rect class="ground" width="{WIDTH}" height="{picture.height}" rx="8"/>',
            *parts,
            "</svg>",
            "",
        )
    )


def _box(box: Box) -> str:
    """Its frame and its lines."""
    kind = "box file" if box.lines[0].startswith("=") else "box"
    rows = [
        f'<rect class="{kind}" x="{box.x}" y="{box.y}" width="{box.width}" '
        f'height="{box.height}" rx="6"/>'
    ]
    y = box.y + PAD + TITLE // 2 + 3
    for index, line in enumerate(box.lines):
        style = "name" if index == 0 else "code" if line.startswith("`") else ""
        shown = html.escape(line.lstrip("=`"))
        of_class = f' class="{style}"' if style else ""
        rows.append(
            f'<text{of_class} xml:space="preserve" x="{box.x + PAD}" y="{y}">{shown}</text>'
        )
        y += TITLE if index == 0 else LINE
    return "\n".join(rows)


def _arrow(start: Box, end: Box, words: str) -> Iterator[str]:
    """The way of an arrow, and its words."""
    (x, y), (to_x, _) = start.middle, end.middle
    if start.column == end.column:
        down = end.y > start.y
        a, b = (start.bottom, end.y) if down else (start.y, end.bottom)
        x = to_x = x if down else x + start.width // 4
        way, at = f"M{x} {a}V{b}", (x + 8, (a + b) // 2 + 4)
    else:
        right = end.x > start.x
        a, b = (start.x + start.width, end.x) if right else (start.x, end.x + end.width)
        level = min(max(y, end.y + PAD), end.bottom - PAD)
        if start.y <= level <= start.bottom:
            way, at = f"M{a} {level}H{b}", (min(a, b) + 4, level - 6)
        else:
            to_edge = end.y if end.y > start.bottom else end.bottom
            way, at = f"M{a} {y}H{to_x}V{to_edge}", (to_x + 8, (y + to_edge) // 2 + 4)
    yield f'<path class="way" marker-end="url(#tip)" d="{way}"/>'
    if words:
        yield f'<text class="words" x="{at[0]}" y="{at[1]}">{html.escape(words)}</text>'


def main() -> None:
    """Draw every text again."""
    for text in sorted(PICTURES.glob("*.txt")):
        svg = drawn(Picture.read(text.read_text("utf-8")))
        text.with_suffix(".svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
