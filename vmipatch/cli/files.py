# SPDX-License-Identifier: MIT
"""Files at the edge: read whole, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from vmipatch.errors import EnvironmentProblem
from vmipatch.image.bzimage import BzImage, is_bzimage
from vmipatch.image.elf import ElfImage


def read_file(path: str) -> bytes:
    """The bytes of a file. Raises EnvironmentProblem if the system refuses."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot be read: {error.strerror}",
            file=path,
            hint="check the name and its permissions",
        ) from error


def read_kernel(path: str) -> ElfImage:
    """The ELF kernel in a file: a vmlinux, or what a bzImage holds.

    Raises EnvironmentProblem, InputNotUnderstood and MalformedImage.
    """
    data = read_file(path)
    return ElfImage.parse(BzImage.parse(data, path).vmlinux if is_bzimage(data) else data, path)


def write_file(path: str, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path` in one step: a reader sees the old file or the new one.

    Raises EnvironmentProblem; then nothing is left behind and an old file is untouched.
    """
    target = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise EnvironmentProblem(
            f"cannot be written: {error.strerror}",
            file=path,
            hint="choose a place that exists, is writable and has room",
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
