# SPDX-License-Identifier: MIT
"""How do files come in? Read whole, with the refusals of the system as our own errors."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vmipatch.errors import EnvironmentProblem
from vmipatch.image.bzimage import BzImage, elf_length, is_bzimage
from vmipatch.image.elf import ElfImage
from vmipatch.image.linked import LinkedKernel
from vmipatch.image.module import Module, is_module
from vmipatch.image.packed import unpack
from vmipatch.image.reloc_list import parse_list
from vmipatch.recover import recover


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


def digest_of(path: str) -> str:
    """The SHA-256 of a file. Raises EnvironmentProblem if the system refuses."""
    return hashlib.sha256(read_file(path)).hexdigest()


def read_kernel(path: str) -> ElfImage:
    """The ELF kernel in a file: a vmlinux, what a bzImage holds, or a module as if linked.

    Raises EnvironmentProblem, InputNotUnderstood and MalformedImage.
    """
    return kernel_in(read_file(path), path)


def kernel_in(data: bytes, path: str) -> ElfImage:
    """The same for a file that has been read."""
    data = unpack(data, path)
    if is_module(data):
        return Module.parse(data, path).image
    return ElfImage.parse(BzImage.parse(data, path).vmlinux if is_bzimage(data) else data, path)


def read_linked(path: str) -> LinkedKernel:
    """The kernel in a file, what it lacks of symbols and relocations recovered from its bytes.

    Raises as `read_kernel` and `recover` do.
    """
    return linked_in(read_file(path), path)


def linked_in(data: bytes, path: str) -> LinkedKernel:
    """The same for a file that has been read."""
    packed = BzImage.parse(data, path) if is_bzimage(data) else None
    image = ElfImage.parse(packed.vmlinux if packed else data, path)
    if ".symtab" in image.section_by_name or ".vmi.annotation" in image.section_by_name:
        return LinkedKernel.complete(image)
    return recover(image, packed.relocs if packed else _list_after(data, path)).kernel


def _list_after(data: bytes, path: str) -> tuple[int, ...] | None:
    """The relocation list after the ELF file `data`, as a payload has it; None if there is none."""
    tail = data[elf_length(data, path) :]
    return parse_list(tail, path) if tail else None
