# SPDX-License-Identifier: MIT
"""How do files come in? Read whole, with the refusals of the system as our own errors."""

from __future__ import annotations

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
