# SPDX-License-Identifier: MIT
"""How are the outputs of a job written? All of them whole, or none of them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vmipatch.errors import EnvironmentProblem, OutputTaken
from vmipatch.names import base_name

STDOUT: Final = "-"
"""The path that means standard output."""
TEMPORARY: Final = ".vmipatch."
"""The beginning of names of files that are not complete yet."""
PERMISSIONS: Final = 0o777
"""Bits of a mode that are kept: set-user-ID would go to another owner."""


@dataclass(frozen=True, slots=True)
class Output:
    """A job's output to one place."""

    path: str
    """A file, a special file such as /dev/null, or STDOUT."""
    data: bytes = field(repr=False)
    mode: int = 0o644
    """Permissions of a new file, before the umask; a file that is there keeps its own."""


@dataclass(frozen=True, slots=True)
class CopiedOutput(Output):
    """A file of a tree: mode and times are those of the file it was made from, and no link of the
    output tree is followed.
    """

    times_ns: tuple[int, int] = (0, 0)
    """Last access and modification, in nanoseconds since the epoch."""


def check_outputs(inputs: Iterable[str | None], outputs: Iterable[str | None]) -> None:
    """Find out before any work whether the outputs of a job can be written.

    None stands for an option that was not given; an input that is a directory is a tree. Raises
    OutputTaken for an output that is an input, lies in an input tree or is another output, also
    through links, and EnvironmentProblem for a place that is missing, is a directory or is not
    writable.
    """
    given = [path for path in inputs if path is not None]
    taken = {_identity(path): path for path in given}
    trees = [path for path in given if os.path.isdir(path)]
    for path in outputs:
        if path is None:
            continue
        identity = STDOUT if path == STDOUT else _identity(path)
        if identity is None:
            continue  # a device or pipe: all may share it
        if identity in taken:
            raise OutputTaken("would be written over " + taken[identity], file=path)
        for tree in trees:
            if path != STDOUT and lies_in(path, tree):
                raise OutputTaken(f"would be written into {tree}, which is an input", file=path)
        taken[identity] = path
        if path != STDOUT:
            _check_place(path)


def write_all(outputs: Sequence[Output]) -> None:
    """Put every output in its place in one step each: a reader sees the old file or the new one.

    What can fail comes first: new files are complete beside their places and special files and
    standard output are written before the first old file is replaced. Symbolic links stay, what
    they point to is replaced, but in trees. Raises EnvironmentProblem; then no part of a file is
    left over and old files are untouched.
    """
    with contextlib.ExitStack() as cleanup:
        ready = [(o, _temporary(o, cleanup)) for o in outputs if not _is_stream(o)]
        for output in outputs:
            if _is_stream(output):
                _write_stream(output)
        _replace_all(ready, cleanup)


def _replace_all(ready: Sequence[tuple[Output, str]], cleanup: contextlib.ExitStack) -> None:
    """Put complete files in their places; if one is refused, the old ones are put back."""
    undo = contextlib.ExitStack()
    try:
        for output, temporary in ready:
            place = _place(output)
            with reported(output.path):
                if os.path.lexists(place):
                    old = _beside(place)
                    cleanup.callback(_remove, old)
                    os.link(place, old, follow_symlinks=False)
                    undo.callback(os.replace, old, place)
                else:
                    undo.callback(_remove, place)
                os.replace(temporary, place)
    except BaseException:
        undo.close()
        raise


def listed(outputs: Iterable[Output]) -> list[dict[str, Any]]:
    """Names, lengths and hashes of outputs, for a report."""
    return [
        {
            "path": base_name(output.path),
            "length": len(output.data),
            "sha256": hashlib.sha256(output.data).hexdigest(),
        }
        for output in outputs
    ]


def lies_in(path: str, tree: str) -> bool:
    """Whether `path` is the directory `tree` or below it, links resolved."""
    inner, outer = os.path.realpath(path), os.path.realpath(tree)
    return os.path.commonpath((inner, outer)) == outer


def _identity(path: str) -> tuple[int, int] | str | None:
    """Equal for two names of one file; None for special files, which all may share."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _is_stream(output: Output) -> bool:
    """Whether bytes are written into what is there: a device, pipe or socket is not replaced."""
    if output.path == STDOUT:
        return True
    if isinstance(output, CopiedOutput):
        return False
    try:
        mode = os.stat(output.path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _check_place(path: str) -> None:
    with reported(path):
        _refuse_directory(Output(path, b""))
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # a name that is too long, a directory that cannot be entered
        with tempfile.TemporaryFile(dir=_directory(path)):
            pass


def _temporary(output: Output, cleanup: contextlib.ExitStack) -> str:
    """The name of a complete file beside the place of `output`, which `cleanup` removes."""
    with reported(output.path):
        _refuse_directory(output)
        name = _beside(_place(output))
        cleanup.callback(_remove, name)  # first: a signal may come right after the file is made
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(output.data)
            file.flush()
            os.fsync(handle)
        if isinstance(output, CopiedOutput):
            os.chmod(name, output.mode & PERMISSIONS)
            os.utime(name, ns=output.times_ns)
        else:
            os.chmod(name, _mode_of(output))
        return name


def _beside(place: str) -> str:
    """A name of a temporary file in the same directory."""
    return os.path.join(os.path.dirname(place), TEMPORARY + os.urandom(8).hex())


def _place(output: Output) -> str:
    """The name that is replaced."""
    if isinstance(output, CopiedOutput):
        return os.path.abspath(output.path)
    return os.path.realpath(output.path)


def _mode_of(output: Output) -> int:
    """A file that is written over keeps its mode, without set-user-ID as after each writing."""
    try:
        return os.stat(output.path).st_mode & PERMISSIONS
    except OSError:
        return output.mode & ~_umask()


def _write_stream(output: Output) -> None:
    with reported(output.path):
        if output.path == STDOUT:
            if sys.stdout is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            sys.stdout.buffer.write(output.data)
            sys.stdout.buffer.flush()
            return
        with os.fdopen(os.open(output.path, os.O_WRONLY | os.O_NOCTTY), "wb") as file:
            file.write(output.data)


@contextlib.contextmanager
def reported(path: str) -> Iterator[None]:
    """A refusal by the system becomes an EnvironmentProblem that names `path`."""
    try:
        yield
    except ValueError as error:
        raise EnvironmentProblem(
            f"cannot be written: {error}", file=path, hint="choose another name"
        ) from error
    except OSError as error:
        if path == STDOUT and isinstance(error, BrokenPipeError):
            raise  # who closed the pipe has read enough: no reason to talk
        raise EnvironmentProblem(
            f"cannot be written: {error.strerror}",
            file="standard output" if path == STDOUT else path,
            hint="choose a place that exists, is writable and has room",
        ) from error


def _refuse_directory(output: Output) -> None:
    if os.path.isdir(_place(output)) and not os.path.islink(_place(output)):
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
