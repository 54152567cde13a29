# SPDX-License-Identifier: MIT
"""How does a tree of files become another one, module by module, and go on after a break?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import click

from vmipatch.cli.console import QUIET, Console
from vmipatch.cli.files import read_file
from vmipatch.cli.module_tree import (
    COPIED,
    FAILED,
    JOURNAL,
    Entry,
    Journal,
    files_of,
    is_module_name,
    processors,
    run_all,
    sha256,
)
from vmipatch.cli.outputs import Output, reported, write_all
from vmipatch.errors import VmipatchError

Change = Callable[[bytes, str, str], tuple[bytes, Entry]]
"""(the file of a module, its whole path, its path in the tree) -> the new file, what was done.

Raises VmipatchError."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """Makes one file of the other tree; what is no module is copied."""

    source: str
    target: str
    change: Change

    def __call__(self, path: str) -> Entry:
        origin, place = os.path.join(self.source, path), os.path.join(self.target, path)
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if os.path.islink(origin):
                return self._link(path, origin, place)
            data, entry = read_file(origin), Entry(path, COPIED)
            output = data
            if is_module_name(path):
                output, entry = self.change(data, origin, path)
            write_all([Output(place, output, os.stat(origin).st_mode & 0o777)])
        except VmipatchError as error:
            return Entry(path, FAILED, message=str(error.in_file(origin)))
        except OSError as error:
            return Entry(path, FAILED, message=f"{origin}: {error.strerror}")
        return replace(entry, input_sha256=sha256(data), output_sha256=sha256(output))

    def _link(self, path: str, origin: str, place: str) -> Entry:
        goal = os.readlink(origin)
        if os.path.lexists(place):
            os.unlink(place)
        os.symlink(goal, place)
        return Entry(path, COPIED)

    def still_holds(self, entry: Entry) -> bool:
        """Whether input and output are those of the journal's entry."""
        try:
            was = Path(self.source, entry.path).read_bytes()
            now = Path(self.target, entry.path).read_bytes()
        except OSError:
            return False
        return (sha256(was), sha256(now)) == (entry.input_sha256, entry.output_sha256)


def copy_tree(
    console: Console, source: str, target: str, change: Change, settings: str, jobs: int | None
) -> list[Entry]:
    """Copy all files below `source` to `target`, modules as `change` makes them.

    A module that is not understood is left out, and an entry says so. A run that was interrupted
    with the same `settings` is taken up again. Raises EnvironmentProblem and click.UsageError.
    """
    if _is_below(target, source) or _is_below(source, target):
        raise click.UsageError("one of the two trees lies in the other")
    paths = files_of(source)
    with reported(target):
        os.makedirs(target, exist_ok=True)
    task = _Copy(source, target, change)
    journal = Journal(target, settings)
    done = [e for path in paths if (e := journal.entries.get(path)) and task.still_holds(e)]
    kept = {entry.path for entry in done}
    rest = [path for path in paths if path not in kept and path != JOURNAL]
    if done:
        console.say(f"{target}: {len(done)} files are done already")
    with closing(journal):
        new = run_all(source, rest, task, jobs or processors())
        for entry in with_progress(console, new, rest):
            done.append(entry)
            if entry.outcome != FAILED:
                journal.note(entry)
    journal.remove()
    return done


def with_progress(
    console: Console, entries: Iterable[Entry], paths: Sequence[str]
) -> Iterator[Entry]:
    """The entries, with a bar on a terminal."""
    hidden = console.verbosity <= QUIET or not sys.stderr.isatty()
    with click.progressbar(
        entries, length=len(paths), label="modules", file=sys.stderr, hidden=hidden
    ) as shown:
        yield from shown


def _is_below(path: str, other: str) -> bool:
    inner, outer = os.path.realpath(path), os.path.realpath(other)
    return os.path.commonpath((inner, outer)) == outer
