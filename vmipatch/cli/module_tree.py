# SPDX-License-Identifier: MIT
"""How are all files of a module tree worked on at once, and a broken run taken up again?

Each file is the business of one task in a pool of processes; what it did is a line of a journal
beside the output, so that an interrupted run goes on where it stopped. The results do not depend on
who did what when.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from vmipatch import __version__
from vmipatch.cli.outputs import reported
from vmipatch.errors import EnvironmentProblem

MODULE_SUFFIXES = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")
JOURNAL = "vmipatch.journal"
REWRITTEN, UNTOUCHED, COPIED, RESTORED, FAILED, PROVEN, REFUTED = OUTCOMES = (
    "rewritten", "untouched", "copied", "restored", "failed", "proven", "refuted",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree, and what became of it."""

    path: str
    """Relative to the tree."""
    outcome: str
    sites: int = 0
    native: int = 0
    """Sensitive instructions that stay as they are."""
    added_len: int = 0
    signature_len: int = 0
    """Bytes of a signature that was taken off."""
    gives: str = ""
    """What `restore` gives back of it, by the label of a Gives."""
    reasons: tuple[tuple[str, int], ...] = ()
    """Why sites stay native, and how many."""
    message: str = ""
    """The error, where there was one; findings, one a line."""
    input_sha256: str = ""
    output_sha256: str = ""


Task = Callable[[str], Entry]
"""Does one file, given its relative path."""


def files_of(root: str) -> list[str]:
    """Relative paths of all files and links below `root`, sorted. Raises EnvironmentProblem."""
    if not os.path.isdir(root):
        raise EnvironmentProblem(
            "this is no directory", file=root, hint="give the directory of a module tree"
        )

    def refuse(error: OSError) -> None:
        raise EnvironmentProblem(
            f"cannot be read: {error.strerror}", file=error.filename, hint="check its permissions"
        )

    found = []
    for directory, below, names in os.walk(root, onerror=refuse):
        links = [name for name in below if os.path.islink(os.path.join(directory, name))]
        found += [os.path.relpath(os.path.join(directory, n), root) for n in (*names, *links)]
    return sorted(found)


def is_module_name(path: str) -> bool:
    """Whether a file is named as modules are."""
    return path.endswith(MODULE_SUFFIXES)


def run_all(root: str, paths: Sequence[str], task: Task, jobs: int) -> Iterator[Entry]:
    """Do `task` for each path, the largest files first; entries as they come.

    Raises EnvironmentProblem if a process dies.
    """
    largest_first = sorted(paths, key=lambda path: (-os.path.getsize(Path(root, path)), path))
    if jobs == 1 or len(paths) < 2 * jobs:
        yield from map(task, largest_first)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(task, largest_first, chunksize=8)
        except BrokenProcessPool as error:
            raise EnvironmentProblem(
                "a process of the pool died",
                file=root,
                hint="run again: what is done is kept; with less memory use fewer --jobs",
            ) from error


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


class Journal:
    """The entries of an earlier run that still hold, and a place for new ones."""

    def __init__(self, output: str, settings: str) -> None:
        """`settings` are the options of the run: an entry made with others is worth nothing."""
        self._path = Path(output, JOURNAL)
        self._head = json.dumps({"vmipatch": __version__, "settings": settings})
        self._stack = ExitStack()
        self.entries: dict[str, Entry] = {}
        with reported(str(self._path)):
            if self._path.exists():
                self._read()
            self._file = self._stack.enter_context(self._path.open("a", encoding="utf-8"))
            if not self.entries:
                self._file.truncate(0)
                self._file.write(self._head + "\n")

    def _read(self) -> None:
        head, *lines = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        if head != self._head:
            return
        for line in lines:
            try:
                fields = json.loads(line)
                fields["reasons"] = tuple((str(r), int(n)) for r, n in fields["reasons"])
                entry = Entry(**fields)
            except (ValueError, TypeError, KeyError):
                continue  # the line that was being written when the run ended
            self.entries[entry.path] = entry

    def note(self, entry: Entry) -> None:
        """Keep an entry, at once."""
        with reported(str(self._path)):
            self._file.write("\n" + json.dumps(asdict(entry)))
            self._file.flush()

    def close(self) -> None:
        """End the run; what was noted stays for the next one."""
        self._stack.close()

    def remove(self) -> None:
        """Forget everything: a complete run leaves no journal."""
        with reported(str(self._path)):
            self._path.unlink(missing_ok=True)


def sha256(data: bytes) -> str:
    """The hash by which files are compared."""
    return hashlib.sha256(data).hexdigest()
