# SPDX-License-Identifier: MIT
"""What can go wrong, and which exit code does a command then have?"""

from __future__ import annotations

import enum
from typing import Any, ClassVar

from vmipatch.limits import Limit


class ExitCode(enum.IntEnum):
    """Documented exit codes of every command."""

    SUCCESS = 0
    FINDINGS = 1  # a check ran to its end and did not hold
    USAGE = 2  # click's own code for a wrong command line
    INPUT = 3  # a file was read and not understood
    ENVIRONMENT = 4  # a file or program is missing, a disk is full
    INTERNAL = 5  # a bug of vmipatch
    BELOW = 6  # all holds, but fewer sites were executed than required


class VmipatchError(Exception):
    """Root of all errors: what happened, where, and what to do about it.

    `place` is free text such as `.text+0x128 (do_exit+0x8)`; `hint` is one sentence that
    tells the user the remedy.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    """The one that a command then has."""
    usual_hint: ClassVar[str] = ""
    """The remedy where the raiser knows no better one."""

    def __init__(
        self, message: str, *, file: str | None = None, place: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.place = place
        self.hint = hint or self.usual_hint

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.place) if part)
        text = f"{where}: {self.message}" if where else self.message
        return escaped(f"{text} ({self.hint})" if self.hint else text)

    def in_file(self, file: str) -> VmipatchError:
        """The same error, naming `file` unless it already names one."""
        self.file = self.file or file
        return self


def escaped(text: str, keep: str = "") -> str:
    """`text` for a terminal: what is not printable and not in `keep` is shown escaped.

    Names in files may hold anything: escape sequences, new lines, bytes that are not UTF-8.
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


class InputNotUnderstood(VmipatchError):
    """A file that was read is not what the command can work on."""

    exit_code = ExitCode.INPUT


class NotSupported(InputNotUnderstood):
    """A sound file of a kind that vmipatch does not support; docs/guide.md lists the kinds."""

    def __init__(
        self,
        limit: Limit,
        message: str = "",
        *,
        file: str | None = None,
        place: str | None = None,
        hint: str = "",
    ) -> None:
        """`message` and `hint` say more of this file than the limit does."""
        super().__init__(message or limit.what, file=file, place=place, hint=hint or limit.remedy)
        self.limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        return _not_supported, (self.limit, self.message, self.file, self.place, self.hint)


def _not_supported(
    limit: Limit, message: str, file: str | None, place: str | None, hint: str
) -> NotSupported:
    """The same error in another process."""
    return NotSupported(limit, message, file=file, place=place, hint=hint)


class MalformedImage(InputNotUnderstood):
    """A kernel file that contradicts itself or its format."""

    usual_hint = "the file is damaged: build or copy it again"


class MalformedTable(InputNotUnderstood):
    """A kernel table that fails its validation."""

    usual_hint = "the file is damaged, or its kernel stores this table in an unknown way"


class UnclassifiedReference(NotSupported):
    """A reference into moving code of which nothing tells what it means."""

    def __init__(
        self, message: str, *, file: str | None = None, place: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(Limit.REFERENCE, message, file=file, place=place, hint=hint)


class EnvironmentProblem(VmipatchError):
    """A file or program is missing, or the system refused an operation."""

    exit_code = ExitCode.ENVIRONMENT


class OutputTaken(VmipatchError):
    """An output would be written over an input or another output."""

    exit_code = ExitCode.USAGE
    usual_hint = "choose another place"


class NotServed(VmipatchError):
    """An option or a job that a file of this kind does not have."""

    exit_code = ExitCode.USAGE


class AssemblyFailed(VmipatchError):
    """A bundled assembly source was refused by the assembler."""
