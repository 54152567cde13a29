# SPDX-License-Identifier: MIT
"""How do files come in? Read whole, with the refusals of the system as our own errors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vmipatch.errors import EnvironmentProblem
from vmipatch.image.bzimage import BzImage, elf_length, is_bzimage
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import Module, is_module
from vmipatch.image.packed import unpack
from vmipatch.image.reloc_list import parse_list
from vmipatch.image.trim import without_debug
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


@dataclass(frozen=True, slots=True)
class LinkedKernel:
    """A kernel with symbols and relocations, its own or recovered ones."""

    image: ElfImage
    fixed: tuple[tuple[int, int], ...] | None
    """Ranges of code that must not move because of doubts; None if the file told everything."""
    source: ElfImage
    """The kernel as it was found in the file."""

    @classmethod
    def complete(cls, image: ElfImage) -> LinkedKernel:
        """A kernel that has symbols and relocations of its own."""
        return cls(image, None, image)

    @property
    def is_recovered(self) -> bool:
        """Whether symbols and relocations had to be recovered."""
        return self.fixed is not None

    def without_debug(self) -> LinkedKernel:
        """The same without debug sections, nine tenths of a distribution's vmlinux."""
        image = without_debug(self.image)
        source = image if self.source is self.image else without_debug(self.source)
        return LinkedKernel(image, self.fixed, source)


def read_linked(path: str) -> LinkedKernel:
    """The kernel in a file, what it lacks of symbols and relocations recovered from its bytes.

    Raises as `read_kernel` and `recover` do.
    """
    return linked_in(read_file(path), path)


def linked_in(data: bytes, path: str) -> LinkedKernel:
    """The same for a file that has been read."""
    if is_bzimage(data):
        packed = BzImage.parse(data, path)
        image, relocs = ElfImage.parse(packed.vmlinux, path), packed.relocs
    else:
        image, relocs = ElfImage.parse(data, path), None
    if ".symtab" in image.section_by_name or ".vmi.annotation" in image.section_by_name:
        return LinkedKernel.complete(image)
    if relocs is None and len(tail := data[elf_length(data, path) :]):
        relocs = parse_list(tail, path)
    found = recover(image, relocs)
    return LinkedKernel(found.image, found.fixed, image)
