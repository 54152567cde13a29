# SPDX-License-Identifier: MIT
"""Which lines of the tree have words that docs/glossary.md puts otherwise?

    python -m tools.habits

Looks at every file of the work tree that git does not ignore, whatever its age. Exit code 1 if
there is such a line.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

GLOSSARY: Final = "docs/glossary.md"
SUFFIXES: Final = (".py", ".S", ".c", ".h", ".md", ".sh", ".toml", ".css")
EXEMPT: Final = {
    GLOSSARY: "lists the habits",
    "tools/habits.py": "has them as patterns",
    "tests/tools/test_habits.py": "has them as samples",
    "docs/support.md": "quotes every message as it came",
}
"""Files that are not looked at, with the reason."""
KEPT: Final = {
    '"a kernel table leads to the instruction"': "a value in the published report of `scan`",
    '"a relocated word leads to the instruction"': "a value in the published report of `scan`",
    '"a branch of proven code leads to the instruction"': "a value in the same report",
    '"nops or int3 that nothing leads to"': "a value in the same report",
    '"a signature that the kernel looks for, behind a jump"': "a value in the same report",
    '"a VMI call stands for it, behind a jump out of line"': "a value in the same report",
    ".text.behind": "a section that a recovered kernel has, in outputs and reports",
    '".behind"': "the end of that section's name",
    "nobody cared": "Linux's own message (kernel/irq/spurious.c)",
}
"""Words that stay, with the reason: programs read them, or Linux says them."""


@dataclass(frozen=True, slots=True)
class Habit:
    """One habit, and what to write."""

    pattern: re.Pattern[str]
    instead: str


def _habit(pattern: str, instead: str, flags: re.RegexFlag = re.IGNORECASE) -> Habit:
    return Habit(re.compile(pattern, flags), instead)


HABITS: Final = (
    _habit(r"(?<!-)\bbehind\b(?!-)", "after"),  # a decision record's file may be named so
    _habit(r"\b(leads?|led) to\b", "targets, points to, is relocated to"),
    _habit(r"\bis none\b", "is not one", re.NOFLAG),  # `is None` is Python
    _habit(r"(?<!there )\bis no\b(?! (more|less|longer|other|stale)\b)", "is not a"),
    _habit(r"\bnobody\b", "no one, or name who; of code: never"),
    _habit(r"\bwhoever\b", "name who"),
    _habit(r"\buntold\b", "decoded, or name what is undone"),
    _habit(r'"""What\b[^?]*$', 'a noun: "The parts of a site."'),
)


def found_in(lines: Iterable[str]) -> Iterator[tuple[str, Habit]]:
    """Each line that has a habit, with that."""
    for line in lines:
        own = line
        for words in KEPT:
            own = own.replace(words, "")
        for habit in HABITS:
            if habit.pattern.search(own):
                yield line.strip(), habit


def found_among(texts: Mapping[str, str]) -> Iterator[tuple[str, str, Habit]]:
    """File, line and habit of each finding in `texts`, from path to text."""
    for path, text in sorted(texts.items()):
        if path not in EXEMPT:
            yield from ((path, line, habit) for line, habit in found_in(text.splitlines()))


def tree() -> dict[str, str]:
    """Texts of the work tree that can have a habit, by path."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    texts = {}
    for path in listed.split("\0"):
        if path.endswith(SUFFIXES):
            try:
                with open(path, encoding="utf-8") as file:
                    texts[path] = file.read()
            except FileNotFoundError:  # removed, and not yet committed
                continue
    return texts


def main() -> int:
    """Print each finding; 1 if there is one."""
    found = list(found_among(tree()))
    for path, line, habit in found:
        print(f"{path}: {line}\n    write: {habit.instead}")
    print(f"habits: {len(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
