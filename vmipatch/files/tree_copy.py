# SPDX-License-Identifier: MIT
"""How does a tree become another one? Module by module; all else is copied as it is.

Each file is one task; what came of it is a line of a journal in the output, so that an interrupted
run goes on where it stopped. Results do not depend on who did what when.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, replace

from vmipatch.errors import EnvironmentProblem, OutputTaken, VmipatchError
from vmipatch.files.entry import Entry, FileOutcome
from vmipatch.files.file import read_file, sha256_of
from vmipatch.files.journal import JOURNAL, Journal
from vmipatch.files.nodes import Node, NodeKind, nodes_of
from vmipatch.files.outputs import (
    PERMISSIONS,
    TEMPORARY,
    CopiedOutput,
    lies_in,
    reported,
    write_all,
)
from vmipatch.files.pool import run_all

Change = Callable[[bytes, str, str], tuple[bytes, Entry]]
"""(the file of a module, its whole path, its path in the tree) -> the new file, what was done.

Can be pickled. Raises VmipatchError."""
Watch = Callable[[Entry], None]
"""Is told of each file that is done."""
_TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + "[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of copying a whole tree."""

    entries: tuple[Entry, ...]
    """By path."""
    resumed: int
    """How many of them an earlier run had done."""


def copy_tree(
    source: str,
    target: str,
    change: Change,
    settings: str,
    *,
    executor: Executor | None = None,
    jobs: int | None = None,
    watch: Watch | None = None,
) -> Copied:
    """Copy all nodes below `source` to `target`, modules as `change` makes them.

    A module that is not understood is left out, and its entry says so. A run that was interrupted
    with the same `settings` is taken up again. Links are copied as links; pipes and devices are
    made anew; modes and times are those of the source. Raises EnvironmentProblem, also where a
    link in `target` would carry a file out of it, and OutputTaken if one tree lies in the other.
    """
    if lies_in(target, source) or lies_in(source, target):
        raise OutputTaken(f"one of this and {source} lies in the other", file=target)
    nodes = [node for node in nodes_of(source) if node.path != JOURNAL]
    source, target = os.path.abspath(source), os.path.abspath(target)  # tasks may run elsewhere
    directories = [node for node in nodes if node.kind is NodeKind.DIRECTORY]
    _make_directories(target, directories)
    stale = list(_unfinished(target, directories))
    task = _Copy(source, target, change)
    files = [node for node in nodes if node.kind is not NodeKind.DIRECTORY]
    journal = Journal(target, settings)
    with closing(journal):
        kept = [entry for node in files if (entry := task.kept(node, journal))]
        done_before = {entry.path for entry in kept}
        entries = list(kept)
        rest = [node for node in files if node.path not in done_before]
        for entry in run_all(rest, task, executor, jobs):
            entries.append(entry)
            if not entry.is_wrong:
                journal.note(entry)
            if watch is not None:
                watch(entry)
    journal.remove()
    for path in stale:
        with contextlib.suppress(FileNotFoundError), reported(path):
            os.unlink(path)
    _finish_directories(source, target, directories)
    return Copied(tuple(sorted(entries, key=lambda entry: entry.path)), len(kept))


@dataclass(frozen=True, slots=True)
class _Copy:
    """Makes one node of the other tree."""

    source: str
    target: str
    change: Change

    def __call__(self, node: Node) -> Entry:
        origin, place = os.path.join(self.source, node.path), os.path.join(self.target, node.path)
        try:
            if node.kind is NodeKind.LINK:
                return _copy_link(node.path, origin, place)
            if node.kind is NodeKind.SPECIAL:
                return _copy_special(node.path, origin, place)
            return self._copy_file(node, origin, place)
        except VmipatchError as error:
            return Entry.failed(node.path, error.in_file(origin))
        except OSError as error:
            why, hint = f"cannot be made: {error.strerror}", "make room, or check its permissions"
        except MemoryError:
            why, hint = "there is not enough memory for it", "use fewer --jobs"
        return Entry.failed(node.path, EnvironmentProblem(why, file=place, hint=hint))

    def _copy_file(self, node: Node, origin: str, place: str) -> Entry:
        status = os.stat(origin)
        data = read_file(origin)
        output, entry = data, Entry(node.path, FileOutcome.COPIED)
        if node.kind is NodeKind.MODULE:
            output, entry = self.change(data, origin, node.path)
            place = self._place(node, entry)
        times = status.st_atime_ns, status.st_mtime_ns
        write_all([CopiedOutput(place, output, status.st_mode, times)])
        return replace(entry, input_sha256=sha256_of(data), output_sha256=sha256_of(output))

    def _place(self, node: Node, entry: Entry) -> str:
        """Where a module goes: under the name that its packing has, unless that is taken."""
        taken = os.path.lexists(os.path.join(self.source, entry.path))
        return os.path.join(self.target, node.path if taken else entry.path)

    def kept(self, node: Node, journal: Journal) -> Entry | None:
        """The journal's entry if input and output are still those that it names."""
        entry = journal.entries.get(node.path)
        if entry is None or node.kind not in (NodeKind.FILE, NodeKind.MODULE):
            return None
        place = os.path.join(self.target, node.path)
        if os.path.islink(place):
            return None
        try:
            was, now = read_file(os.path.join(self.source, node.path)), read_file(place)
        except EnvironmentProblem:
            return None
        holds = (sha256_of(was), sha256_of(now)) == (entry.input_sha256, entry.output_sha256)
        return entry if holds else None


def _copy_link(path: str, origin: str, place: str) -> Entry:
    """A link that points to the same as `origin`, whatever that is."""
    if os.path.lexists(place):
        os.unlink(place)
    os.symlink(os.readlink(origin), place)
    _copy_times(origin, place)
    return Entry(path, FileOutcome.COPIED)


def _copy_special(path: str, origin: str, place: str) -> Entry:
    """A pipe, device or socket like `origin`, which is never opened."""
    status = os.lstat(origin)
    if os.path.lexists(place):
        os.unlink(place)
    os.mknod(place, status.st_mode, status.st_rdev)
    os.chmod(place, stat.S_IMODE(status.st_mode))
    _copy_times(origin, place)
    return Entry(path, FileOutcome.COPIED)


def _copy_times(origin: str, place: str) -> None:
    status = os.lstat(origin)
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _make_directories(target: str, directories: Sequence[Node]) -> None:
    with reported(target):
        os.makedirs(target, exist_ok=True)
    for node in directories:
        place = os.path.join(target, node.path)
        if os.path.islink(place):
            raise EnvironmentProblem(
                "is a link where the tree has a directory: files would be written out of the tree",
                file=place,
                hint="remove it, or choose an empty directory",
            )
        with reported(place):
            os.makedirs(place, exist_ok=True)
            os.chmod(place, os.stat(place).st_mode & PERMISSIONS | stat.S_IRWXU)


def _unfinished(target: str, directories: Sequence[Node]) -> Iterator[str]:
    """Temporary files that a run left which was killed."""
    for directory in ("", *(node.path for node in directories)):
        place = os.path.join(target, directory)
        with reported(place):
            names = os.listdir(place)
        yield from (os.path.join(place, n) for n in names if _TEMPORARY_NAME.fullmatch(n))


def _finish_directories(source: str, target: str, directories: Sequence[Node]) -> None:
    """Modes and times of directories, from below: a file in one changes its time."""
    for path in (*(node.path for node in reversed(directories)), ""):
        origin, place = os.path.join(source, path), os.path.join(target, path)
        with reported(place):
            os.chmod(place, os.stat(origin).st_mode & PERMISSIONS)
            _copy_times(origin, place)
