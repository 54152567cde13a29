# SPDX-License-Identifier: MIT
"""Does a bar tell the truth, fit any terminal, and leave nothing on it?"""

from __future__ import annotations

import io
import re
import time

import pytest

from tests.support.screen import Screen
from vmipatch.cli.bar import bar_line
from vmipatch.cli.console import Console
from vmipatch.cli.progress import LiveProgress, PlainProgress, progress_on
from vmipatch.cli.steps import steps_shown
from vmipatch.steps import step
from vmipatch.verify.parallel import News


class Terminal(io.StringIO):
    """A terminal without a size of its own, which then has 80 columns and 24 lines."""

    def isatty(self) -> bool:
        return True


def seen(out: Terminal, columns: int = 80, lines: int = 24) -> Screen:
    screen = Screen(columns, lines)
    screen.feed(out.getvalue())
    return screen


@pytest.mark.parametrize("columns", [10, 30, 40, 80, 200])
@pytest.mark.parametrize("done", range(10))
def test_a_bar_fits_and_is_filled_by_what_is_done(columns: int, done: int) -> None:
    line = bar_line("vmlinux: packing", done, 9, 12.4, columns)
    assert len(line) < columns
    if found := re.search(r"\[(#*)(-*)\]", line):
        filled, left = map(len, found.groups())
        assert abs(filled / (filled + left) - done / 9) < 1 / (filled + left)
        assert line.endswith(f"{done} of 9, 12 s")
    else:
        assert columns < 80


def test_a_mark_moves_where_no_count_is_known() -> None:
    lines = [bar_line("vmlinux: packing", 0, 0, seconds / 4, 80) for seconds in range(20)]
    assert len({line.index("###") for line in lines}) == 20
    assert {line.count("#") for line in lines} == {3}


def test_a_step_is_drawn_with_its_count_and_erased() -> None:
    out = Terminal()
    with steps_shown(Console(), "vmlinux", out), step("packing") as tell:
        tell(3, 9)
        time.sleep(0.4)
    assert re.search(r"vmlinux: packing \[#+-+\] 3 of 9, 0 s", out.getvalue())
    assert seen(out).text == ""


def test_a_part_of_a_step_is_not_drawn_over_it() -> None:
    out = Terminal()
    with steps_shown(Console(), "tree", out), step("files"), step("scanning"):
        pass
    assert "scanning" not in out.getvalue()


def test_a_pipe_hears_nothing_of_steps() -> None:
    out = io.StringIO()
    with steps_shown(Console(), "vmlinux", out), step("packing") as tell:
        tell(3, 9)
    assert out.getvalue() == ""


def do(progress: PlainProgress, count: int, at_once: int) -> None:
    """Steps of a verification, so many at a time, with consoles that say much."""
    names = [f"boot {number}" for number in range(count)]
    with progress.shown():
        progress.planned(count)
        for first in range(0, count, at_once):
            batch = names[first : first + at_once]
            for name in batch:
                progress.started(name)
            for name in batch:
                progress.heard(name, News(123_456_789, "\x1b[2J" + 300 * "x"))
            for name in batch:
                progress.finished(name, None)


@pytest.mark.parametrize(("columns", "lines", "at_once"), [(80, 24, 3), (80, 24, 64)])
def test_live_lines_fit_the_screen_and_settled_ones_stay(
    columns: int, lines: int, at_once: int
) -> None:
    out = Terminal()
    do(progress_on(out), 64, at_once)
    screen = seen(out, columns, lines)
    assert screen.broken == 0
    assert re.sub(r"\d+\.\d s", "T", screen.text).splitlines() == [
        f"boot {number}: done, T" for number in range(64)
    ]
    assert "0.123 s" in out.getvalue()


def test_more_steps_than_lines_are_counted() -> None:
    out = Terminal()
    progress = LiveProgress(out)
    progress.planned(64)
    for number in range(64):
        progress.started(f"boot {number}")
    text = seen(out).text
    assert len(text.splitlines()) <= 22
    shown = len(re.findall(r"(?m)^boot \d+", text))
    assert f"and {64 - shown} more" in text
    assert "0 of 64" in text


def test_a_failure_leaves_no_bar() -> None:
    out = Terminal()
    progress = LiveProgress(out)
    with pytest.raises(ValueError, match="it"), progress.shown():
        progress.planned(2)
        progress.started("boot")
        raise ValueError("it")
    assert seen(out).text == ""


def test_off_a_terminal_each_step_has_two_lines_and_no_codes() -> None:
    out = io.StringIO()
    do(progress_on(out), 2, 2)
    assert re.sub(r"\d+\.\d s", "T", out.getvalue()).splitlines() == [
        "boot 0: begun", "boot 1: begun", "boot 0: done, T", "boot 1: done, T",
    ]  # fmt: skip
