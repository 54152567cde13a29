# SPDX-License-Identifier: MIT
"""How do the files of a command come into being? All of them whole, or none of them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import click

from vmipatch.errors import EnvironmentProblem

STDOUT: Final = "-"
"""The path that means standard output."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command writes to one place."""

    path: str
    """A file, a special file such as /dev/null, or STDOUT."""
    data: bytes
    mode: int = 0o644
    """Permissions of a new file, before the umask."""


def check_outputs(inputs: Iterable[str | None], outputs: Iterable[str | None]) -> None:
    """Find out before any work whether the outputs of a command can be written.

    None stands for an option that was not given. Raises click.UsageError for an output that is an
    input or another output, also through links, and EnvironmentProblem for a place that is missing,
    is a directory or is not writable.
    """
    taken = {_identity(path): path for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        identity = STDOUT if path == STDOUT else _identity(path)
        if identity is None:
            continue
        if identity in taken:
            raise click.UsageError(f"{path} would be written over {taken[identity]}")
        taken[identity] = path
        if path != STDOUT:
            _check_place(path)


def write_all(outputs: Sequence[Output]) -> None:
    """Put every output in its place in one step each: a reader sees the old file or the new one.

    What can fail comes first: new files are complete beside their places and special files and
    standard output are written before the first old file is replaced. Symbolic links stay, what
    they lead to is replaced. Raises EnvironmentProblem; then nothing is left behind and old files
    are untouched.
    """
    with contextlib.ExitStack() as cleanup:
        ready = [(o, _temporary(o, cleanup)) for o in outputs if not _is_stream(o.path)]
        for output in outputs:
            if _is_stream(output.path):
                _write_stream(output)
        for output, temporary in ready:
            with reported(output.path):
                os.replace(temporary, os.path.realpath(output.path))


def _identity(path: str) -> tuple[int, int] | str | None:
    """Equal for two names of one file; None for special files, which all may share."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _is_stream(path: str) -> bool:
    """Whether bytes are written into what is there: a device, pipe or socket is not replaced."""
    if path == STDOUT:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _check_place(path: str) -> None:
    with reported(path):
        _refuse_directory(path)
        with tempfile.TemporaryFile(dir=_directory(path)):
            pass


def _temporary(output: Output, cleanup: contextlib.ExitStack) -> str:
    """The name of a complete file beside the place of `output`, which `cleanup` removes."""
    with reported(output.path):
        _refuse_directory(output.path)
        handle, name = tempfile.mkstemp(prefix=".vmipatch.", dir=_directory(output.path))
        cleanup.callback(_remove, name)
        with os.fdopen(handle, "wb") as file:
            file.write(output.data)
            file.flush()
            os.fsync(handle)
        os.chmod(name, output.mode & ~_umask())
        return name


def _write_stream(output: Output) -> None:
    with reported(output.path):
        if output.path == STDOUT:
            click.echo(output.data, nl=False)
            return
        with os.fdopen(os.open(output.path, os.O_WRONLY | os.O_NOCTTY), "wb") as file:
            file.write(output.data)


@contextlib.contextmanager
def reported(path: str) -> Iterator[None]:
    """A refusal by the system becomes an EnvironmentProblem that names `path`."""
    try:
        yield
    except OSError as error:
        if path == STDOUT and isinstance(error, BrokenPipeError):
            raise  # who closed the pipe has read enough: no reason to talk
        raise EnvironmentProblem(
            f"cannot be written: {error.strerror}",
            file="standard output" if path == STDOUT else path,
            hint="choose a place that exists, is writable and has room",
        ) from error


def _refuse_directory(path: str) -> None:
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _directory(path: str) -> str:
    return os.path.dirname(os.path.realpath(path))


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
