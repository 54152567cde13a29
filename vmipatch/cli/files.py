# SPDX-License-Identifier: MIT
"""How do files come in? Read whole, with the refusals of the system as our own errors."""

from __future__ import annotations

from pathlib import Path

from vmipatch.errors import EnvironmentProblem
from vmipatch.image.bzimage import BzImage, is_bzimage
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import Module, is_module
from vmipatch.image.packed import unpack


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
    """The ELF kernel in a file: a vmlinux, what a bzImage holds, or a module as if linked.

    Raises EnvironmentProblem, InputNotUnderstood and MalformedImage.
    """
    data = unpack(read_file(path), path)
    if is_module(data):
        return Module.parse(data, path).image
    return ElfImage.parse(BzImage.parse(data, path).vmlinux if is_bzimage(data) else data, path)
