# SPDX-License-Identifier: MIT
"""Which words of a verdict have a colour? Its outcomes, on a terminal, unless NO_COLOR is set."""

from __future__ import annotations

import os
import re
import sys
from typing import Final

import click

from vmipatch.verify.verdict import Outcome

COLOURS: Final = {Outcome.HOLDS: "green", Outcome.FAILS: "red", Outcome.NOT_DONE: "yellow"}
_WORDS: Final = re.compile(
    rf"(?:(?<=  )|(?<=: ))({'|'.join(re.escape(outcome.value) for outcome in COLOURS)})"
    r"(?=  |$|: |, | as far)",
    re.MULTILINE,
)


def wants_colour() -> bool:
    """Whether standard output is a terminal of someone who wants it (https://no-color.org)."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not is_plain


def coloured(text: str) -> str:
    """Outcomes that are a cell of a table, or stand after a file's name, in their colour."""

    def colour(found: re.Match[str]) -> str:
        return click.style(found[0], COLOURS[Outcome(found[0])])

    return _WORDS.sub(colour, text)
