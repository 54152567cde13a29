# SPDX-License-Identifier: MIT
"""How do commands talk of a tree of modules? Progress, a line for each failure, a summary."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from vmipatch.cli.console import Console, json_output
from vmipatch.cli.steps import steps_shown
from vmipatch.errors import ExitCode, OutputTaken, escaped
from vmipatch.files.entry import Entry, FileOutcome
from vmipatch.files.nodes import nodes_of
from vmipatch.files.outputs import STDOUT, lies_in, write_all
from vmipatch.steps import step

if TYPE_CHECKING:
    from vmipatch.files.tree_copy import Copied, Watch

SHOWN = 12
"""Failures on the screen; the report has all."""
WHOLE = ("", "input")
"""Labels of what comes back whole: nothing was taken, or the input."""

tree_option = click.option(
    "--tree",
    is_flag=True,
    expose_value=False,
    help="Take nothing but a directory of modules, which is known without it.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="How many modules of a tree at once; all processors if not given.",
)


@contextlib.contextmanager
def progress(console: Console, length: int) -> Iterator[Watch]:
    """A bar on a terminal; the value is to be told of each file."""
    done = 0
    with steps_shown(console, "tree"), step("files") as tell:

        def watch(_: Entry) -> None:
            nonlocal done
            done += 1
            tell(done, length)

        yield watch


def require_no_stream(output: str) -> None:
    """Raise click.UsageError if the output of a tree is standard output."""
    if output == STDOUT:
        raise click.UsageError("a tree is written to a directory, not to standard output")


def require_apart(source: str, target: str, files: Sequence[str | None]) -> None:
    """Raise OutputTaken if a report would take the place of a file of the output tree."""
    taken = {os.path.join(os.path.realpath(target), node.path) for node in nodes_of(source)}
    for file in files:
        if file is not None and lies_in(file, target) and os.path.realpath(file) in taken:
            raise OutputTaken(f"would stand where {target} has a file of {source}", file=file)


def report_tree(console: Console, output: str, done: Copied, json_file: str | None) -> None:
    """Write the report about a tree that was written, say what became of it, and end."""
    from vmipatch.files.tree_report import SCHEMA, tree_report

    if json_file is not None:
        write_all([json_output(json_file, SCHEMA, tree_report(output, done.entries))])
    if done.resumed:
        console.say(f"{escaped(output)}: {done.resumed} files were done already")
    conclude(console, output, done.entries, ExitCode.INPUT)


def conclude(console: Console, tree: str, entries: Sequence[Entry], failed: ExitCode) -> None:
    """Say what became of a tree, and end with the code that fits."""
    wrong = [entry for entry in entries if entry.is_wrong]
    for entry in wrong[:SHOWN]:
        has_place = entry.outcome is FileOutcome.FAILED
        console.complain(entry.message if has_place else f"{escaped(entry.path)}: {entry.message}")
    if len(wrong) > SHOWN:
        console.complain(f"and {len(wrong) - SHOWN} modules more (--json has them)")
    console.say(_summary(tree, entries))
    if any(entry.exit_code == ExitCode.ENVIRONMENT for entry in wrong):
        raise click.exceptions.Exit(ExitCode.ENVIRONMENT)
    if wrong:
        raise click.exceptions.Exit(failed)


def _summary(tree: str, entries: Sequence[Entry]) -> str:
    counts = Counter(entry.outcome for entry in entries)
    sites = sum(entry.sites for entry in entries)
    shown = ", ".join(f"{counts[each]} {each.value}" for each in FileOutcome if counts[each])
    unsigned = sum(1 for entry in entries if entry.signature_len)
    signatures = f", {unsigned} signatures gone" if unsigned else ""
    short = sum(1 for entry in entries if entry.gives not in WHOLE)
    comes_back = f", {short} do not come back to the last byte" if short else ""
    return f"{escaped(tree)}: {shown or 'no files'}; {sites} sites{signatures}{comes_back}"
