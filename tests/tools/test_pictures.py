# SPDX-License-Identifier: MIT
"""Are the pictures those of their texts, and does nothing in them overlap?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.pictures import EDGE, LETTER, LETTER_OF_CODE, PAD, PICTURES, WIDTH, Box, Picture, drawn

TEXTS = sorted(PICTURES.glob("*.txt"))


@pytest.fixture(params=TEXTS, ids=lambda path: path.stem)
def text(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_picture_is_that_of_its_text(text: Path) -> None:
    svg = drawn(Picture.read(text.read_text("utf-8")))
    assert text.with_suffix(".svg").read_text("utf-8") == svg, "draw it: python -m tools.pictures"


def overlap(one: Box, other: Box) -> bool:
    aside = one.x + one.width <= other.x or other.x + other.width <= one.x
    return not (aside or one.bottom <= other.y or other.bottom <= one.y)


def test_boxes_lie_apart_and_hold_their_lines(text: Path) -> None:
    picture = Picture.read(text.read_text("utf-8"))
    boxes = list(picture.boxes.values())
    assert [(a.name, b.name) for a in boxes for b in boxes if a is not b and overlap(a, b)] == []
    assert all(box.x >= EDGE and box.x + box.width <= WIDTH - EDGE for box in boxes)
    for box in boxes:
        for line in box.lines:
            length = len(line.lstrip("=`")) * (LETTER_OF_CODE if line.startswith("`") else LETTER)
            assert length <= box.width - 2 * PAD, line


def points_of(way: str, step: int = 4) -> list[tuple[int, int]]:
    """Points along a path of M, H and V, ends left out."""
    x = y = 0
    found: list[tuple[int, int]] = []
    for letter, first, second in re.findall(r"([MHV])(\d+)(?: (\d+))?", way):
        to_x, to_y = x, y
        if letter == "M":
            x, y = int(first), int(second)
            continue
        to_x, to_y = (int(first), y) if letter == "H" else (x, int(first))
        count = max(abs(to_x - x), abs(to_y - y)) // step
        found += [(x + (to_x - x) * n // count, y + (to_y - y) * n // count) for n in range(count)]
        x, y = to_x, to_y
    return found[1:]


def test_no_arrow_goes_through_a_box(text: Path) -> None:
    picture = Picture.read(text.read_text("utf-8"))
    ways = re.findall(r' d="(M\d+ \d+[HV][^"]*)"/>\n', drawn(picture))
    assert len(ways) == len(picture.arrows)
    for way in ways:
        for x, y in points_of(way):
            crossed = [
                box.name
                for box in picture.boxes.values()
                if box.x < x < box.x + box.width and box.y < y < box.bottom
            ]
            assert crossed == [], way


def test_a_line_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither"):
        Picture.read("title: t\nneither\n")
