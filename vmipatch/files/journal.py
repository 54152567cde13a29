# SPDX-License-Identifier: MIT
"""How is a broken run over a tree taken up again? By a line for each file that is done."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from vmipatch import __version__
from vmipatch.files.entry import Entry, FileOutcome, Left
from vmipatch.files.outputs import reported

JOURNAL: Final = "vmipatch.journal"
"""Its name, in the output tree."""
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
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            self._file = self._stack.enter_context(
                os.fdopen(handle, "r+", encoding="utf-8", errors="replace", newline="\n")
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
                entry = _decoded(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # the line that was being written when the run ended, or not ours
            self.entries[entry.path] = entry

    def note(self, entry: Entry) -> None:
        """Keep an entry, at once. Raises EnvironmentProblem."""
        with reported(str(self._path)):
            self._file.write("\n" + json.dumps(_encoded(entry)))
            self._file.flush()

    def close(self) -> None:
        """End the run; what was noted stays for the next one."""
        self._stack.close()

    def remove(self) -> None:
        """Forget everything: a complete run leaves no journal. Raises EnvironmentProblem."""
        with reported(str(self._path)):
            self._path.unlink(missing_ok=True)


def _encoded(entry: Entry) -> dict[str, Any]:
    plain = {name: getattr(entry, name) for name in _KEPT}
    return plain | {"left": entry.left.reasons}


def _decoded(plain: dict[str, Any]) -> Entry:
    values = {name: plain[name] for name in _KEPT}
    outcome = FileOutcome(values.pop("outcome"))
    left = Left(tuple((str(reason), int(count)) for reason, count in plain["left"]))
    return Entry(outcome=outcome, left=left, **values)
