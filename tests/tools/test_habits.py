# SPDX-License-Identifier: MIT
"""Are the words that the glossary puts otherwise found in every file of the tree?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.habits import EXEMPT, GLOSSARY, HABITS, KEPT, found_among, found_in, main, tree

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "line",
    [
        "# the section behind .text",
        "Ending.BEHIND",
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


def test_names_are_not_prose() -> None:
    assert not list(found_in(["[0004](0004-annotations-behind-the-image.md)"]))
    assert list(found_in(["[0004](0004-annotations-behind-the-image.md): behind the image"]))


@pytest.mark.parametrize("words", KEPT)
def test_kept_words_are_kept_and_nothing_beside_them(words: str) -> None:
    assert not list(found_in([words]))
    assert list(found_in([f"{words} behind it"]))


def test_exempt_files_alone_are_left_out() -> None:
    texts = {"b.py": "same\n", "a.py": "same\nit leads to b\n", GLOSSARY: "behind\n"}
    assert [(path, line) for path, line, _ in found_among(texts)] == [("a.py", "it leads to b")]


def test_old_lines_and_new_ones_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "staged.md").write_text("the gap behind it\n")
    subprocess.run(["git", "add", "staged.md"], check=True)
    (tmp_path / "untracked.S").write_text("# whoever reads it\n")
    (tmp_path / "other.txt").write_text("behind\n")
    assert main() == 1
    printed = capsys.readouterr().out
    assert "staged.md: the gap behind it" in printed
    assert "untracked.S: # whoever reads it" in printed
    assert printed.endswith("habits: 2\n")


def test_allow_list_has_nothing_that_the_tree_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    texts = tree()
    assert EXEMPT.keys() <= texts.keys()
    others = "".join(text for path, text in texts.items() if path not in EXEMPT)
    assert [words for words in KEPT if words not in others] == []


def test_glossary_and_tool_list_the_same_habits() -> None:
    text = (ROOT / GLOSSARY).read_text()
    rows = [row for row in text.partition("## Habits")[2].splitlines() if row.startswith("| ")]
    assert [row.split("|")[2].strip() for row in rows[2:]] == [habit.instead for habit in HABITS]


def test_glossary_has_each_word_once_and_in_order() -> None:
    rows = (ROOT / GLOSSARY).read_text().partition("## Habits")[0].splitlines()
    words = [row.split("|")[1].strip() for row in rows if row.startswith("| ")][2:]
    assert words == sorted(set(words), key=str.lower)
    assert len(words) >= 30
