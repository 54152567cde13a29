# SPDX-License-Identifier: MIT
"""What do all files have in common? They were read once, and are known by what was read."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import NoReturn

from vmipatch.errors import EnvironmentProblem, NotServed
from vmipatch.files.kind import Kind, with_article

BYTES = "<bytes>"
"""The name of a file that was given as bytes."""


@dataclass(frozen=True)
class File:
    """A file of a known kind.

    Two are equal if their names and hashes are. Their bytes are in no `repr`.
    """

    name: str
    """Its name in messages and reports: its path."""
    kind: Kind
    """Told from its content."""
    sha256: str
    """Of the file as it was read, in hexadecimal: what every report and certificate names."""

    def refuse(self, job: str, hint: str) -> NoReturn:
        """Raise NotServed: a file of this kind does not have `job`."""
        raise NotServed(f"{with_article(self.kind)} {job}", file=self.name, hint=hint)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, pipe or device. Raises EnvironmentProblem if the system refuses."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot be read: {error.strerror}",
            file=os.fspath(path),
            hint="check the name and its permissions",
        ) from error
    except ValueError as error:
        raise EnvironmentProblem(
            f"cannot be read: {error}", file=os.fspath(path), hint="check the name"
        ) from error


def sha256_of(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
