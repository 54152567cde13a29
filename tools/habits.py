# SPDX-License-Identifier: MIT
"""Which lines that were added have words that docs/glossary.md puts otherwise?

    python -m tools.habits

What counts is what the work tree has and the commit that introduced the glossary had not; a line
that only moved is not new. Exit code 1 if there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

GLOSSARY: Final = "docs/glossary.md"
SUFFIXES: Final = (".py", ".S", ".md", ".sh", ".toml", ".css")
EXEMPT: Final = frozenset(
    {GLOSSARY, "tools/habits.py", "tests/tools/test_habits.py", "docs/support.md"}
)
"""Files that speak of the habits themselves; and the page that quotes every message as it came."""


@dataclass(frozen=True, slots=True)
class Habit:
    """One habit, and what to write."""

    pattern: re.Pattern[str]
    instead: str


def _habit(pattern: str, instead: str, flags: re.RegexFlag = re.IGNORECASE) -> Habit:
    return Habit(re.compile(pattern, flags), instead)


HABITS: Final = (
    _habit(r"\bbehind\b", "after"),
    _habit(r"\b(leads?|led) to\b", "targets, points to, is relocated to"),
    _habit(r"\bis none\b", "is not one", re.NOFLAG),  # `is None` is Python
    _habit(r"\b(it|this|that|which) is no\b", "is not a"),
    _habit(r"\bnobody\b", "no one, or name who; of code: never"),
    _habit(r"\bwhoever\b", "name who"),
    _habit(r"\buntold\b", "decoded, or name what is undone"),
    _habit(r'"""What\b[^?]*$', 'a noun: "The parts of a site."'),
)


def found_in(lines: Iterable[str]) -> Iterator[tuple[str, Habit]]:
    """Each line that has a habit, with that."""
    for line in lines:
        for habit in HABITS:
            if habit.pattern.search(line):
                yield line.strip(), habit


def added(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """File and line of what `after` has and `before` had nowhere; both from path to text."""
    old = {line.strip() for text in before.values() for line in text.splitlines()}
    for path, text in sorted(after.items()):
        if path not in EXEMPT:
            yield from ((path, line) for line in text.splitlines() if line.strip() not in old)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def _tree(commit: str) -> dict[str, str]:
    """Texts of a commit that can have a habit."""
    matches = "|".join(habit.pattern.pattern.replace(r"\b", "") for habit in HABITS)
    plain = ["git", "-c", "grep.lineNumber=false", "-c", "color.ui=false"]
    grep = [*plain, "grep", "-hiE", matches, commit, "--", *(f"*{s}" for s in SUFFIXES)]
    return {"": subprocess.run(grep, capture_output=True, text=True, check=False).stdout}


def main() -> int:
    """Print each finding; 1 if there is one."""
    history = _git("log", "--diff-filter=A", "--format=%H", "--", GLOSSARY).split()
    if not history:
        print(f"habits: left out, no commit here introduced {GLOSSARY}")
        return 0
    if _git("rev-parse", "--is-shallow-repository").strip() == "true":
        print("habits: left out, a shallow clone does not have what was there before")
        return 0
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    paths = [path for path in listed if path.endswith(SUFFIXES)]
    after = {}
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                after[path] = file.read()
        except FileNotFoundError:
            continue
    count = 0
    for path, line in added(_tree(history[-1]), after):
        for text, habit in found_in([line]):
            print(f"{path}: {text}\n    write: {habit.instead}")
            count += 1
    print(f"habits: {count} in lines that were added")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
