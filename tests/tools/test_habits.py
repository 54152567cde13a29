# SPDX-License-Identifier: MIT
"""Are the words that the glossary puts otherwise found in what is added, and only there?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.habits import GLOSSARY, HABITS, added, found_in

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "line",
    [
        "# the section behind .text",
        "a branch leads to the runtime",
        "it was Led to the hook",
        "the result is none",
        "if this is no directory",
        "bytes that nobody runs",
        "whoever reads it",
        '    """What a site is made of."""',
    ],
)
def test_each_habit_is_found(line: str) -> None:
    assert list(found_in([line]))


@pytest.mark.parametrize(
    "line",
    [
        "there is no list", "misled together", '"""What is this? A path."""', "what follows",
        "a list is nonempty", "if found is None:",
    ],
)  # fmt: skip
def test_other_words_are_left_alone(line: str) -> None:
    assert not list(found_in([line]))


def test_only_lines_that_are_new_count() -> None:
    before = {"": "  the gap behind it\nsame\n"}
    after = {"a.py": "the gap behind it\nit leads to b\n", "b.py": "same\n", GLOSSARY: "behind\n"}
    assert list(added(before, after)) == [("a.py", "it leads to b")]


def test_glossary_and_tool_list_the_same_habits() -> None:
    text = (ROOT / GLOSSARY).read_text()
    rows = [row for row in text.partition("## Habits")[2].splitlines() if row.startswith("| ")]
    assert [row.split("|")[2].strip() for row in rows[2:]] == [habit.instead for habit in HABITS]


def test_glossary_has_each_word_once_and_in_order() -> None:
    rows = (ROOT / GLOSSARY).read_text().partition("## Habits")[0].splitlines()
    words = [row.split("|")[1].strip() for row in rows if row.startswith("| ")][2:]
    assert words == sorted(set(words), key=str.lower)
    assert len(words) >= 30
