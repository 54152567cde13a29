# SPDX-License-Identifier: MIT
"""How is a broken run over a tree taken up again? By a line for each file that is done."""

from __future__ import annotations

import json
import os
import stat
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from vmipatch import __version__
from vmipatch.files.entry import Entry, FileOutcome, Left
from vmipatch.files.outputs import reported
from vmipatch.image.stored_json import json_value

JOURNAL: Final = "vmipatch.journal"
"""Its name, in the output tree."""
_NUMBERS: Final = ("sites", "added_len", "signature_len", "exit_code")
_KEPT: Final = tuple(field.name for field in fields(Entry) if field.name not in ("left", "static"))


class Journal:
    """The entries of an earlier run that still hold, and a place for new ones."""

    def __init__(self, output: str, settings: str) -> None:
        """Read the journal in the directory `output`, if there is one.

        `settings` are the options of the run: an entry made with others is worth nothing. Raises
        EnvironmentProblem, also where a link stands in its place.
        """
        self._path = Path(output, JOURNAL)
        self._head = json.dumps({"vmipatch": __version__, "settings": settings})
        self._stack = ExitStack()
        self.entries: dict[str, Entry] = {}
        with reported(str(self._path)):
            self._file = self._stack.enter_context(
                os.fdopen(_opened(self._path), "r+", encoding="utf-8", errors="replace")
            )
            self._read(self._file.read())
            if not self.entries:
                self._file.seek(0)
                self._file.truncate(0)
                self._file.write(self._head + "\n")

    def _read(self, text: str) -> None:
        head, *lines = text.split("\n")
        if head != self._head:
            return
        for line in lines:
            try:
                entry = _decoded(json_value(line))
            except (ValueError, TypeError, KeyError):
                continue  # the line that was being written when the run ended, or not one of ours
            self.entries[entry.path] = entry

    def note(self, entry: Entry) -> None:
        """Keep an entry, at once. Raises EnvironmentProblem."""
        with reported(str(self._path)):
            self._file.write("\n" + json.dumps(_encoded(entry)))
            self._file.flush()

    def close(self) -> None:
        """End the run; what was noted stays for the next one. Raises EnvironmentProblem."""
        with reported(str(self._path)):
            self._stack.close()

    def remove(self) -> None:
        """Forget everything: a complete run leaves no journal. Raises EnvironmentProblem."""
        with reported(str(self._path)):
            self._path.unlink(missing_ok=True)


def _opened(path: Path) -> int:
    """A descriptor of the journal, a file of its own: no link, no second name of another file."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, 0o644)
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return handle
    os.close(handle)
    os.unlink(path)
    return os.open(path, flags | os.O_EXCL, 0o644)


def _encoded(entry: Entry) -> dict[str, Any]:
    plain = {name: getattr(entry, name) for name in _KEPT}
    return plain | {"left": entry.left.reasons}


def _decoded(plain: dict[str, Any]) -> Entry:
    values = {name: plain[name] for name in _KEPT}
    for name, value in values.items():
        if not isinstance(value, int if name in _NUMBERS else str):
            raise TypeError(name)
    outcome = FileOutcome(values.pop("outcome"))
    left = Left(tuple((str(reason), int(count)) for reason, count in plain["left"]))
    return Entry(outcome=outcome, left=left, **values)
