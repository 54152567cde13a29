# SPDX-License-Identifier: MIT
"""What did the build leave beside a vmlinux that has no relocations any more?

    vmlinux
    vmlinux.unstripped                             the same with relocations (Linux 6.17 on)
    arch/x86/boot/compressed/vmlinux.relocs        the list of absolute words (6.12 on, and before)
    vmlinux.relocs                                 the same, copied beside it

A vmlinux of another name, such as vmlinux-6.12.9, may have them under that name, too.

Source: arch/x86/Makefile.postlink of Linux 6.12, scripts/Makefile.vmlinux of 7.2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from vmipatch.errors import NotSupported
from vmipatch.files.file import read_file, sha256_of
from vmipatch.image.elf import ElfImage
from vmipatch.image.linked import LinkedKernel
from vmipatch.image.reloc_list import parse_list
from vmipatch.image.relocations import has_relocations
from vmipatch.image.twin import require_same_kernel
from vmipatch.limits import Limit

UNSTRIPPED: Final = "vmlinux.unstripped"
LIST: Final = "arch/x86/boot/compressed/vmlinux.relocs"
_SUFFIXES: Final = {".unstripped": False, ".relocs": True}
"""From the end of a name to whether the file is a list."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A file that was read with a vmlinux, since it holds the references that this one lacks."""

    path: str
    sha256: str
    """Of the file, in hexadecimal."""
    data: bytes = field(repr=False, compare=False)
    is_list: bool
    """Whether it is a relocation list, and not the vmlinux with relocations."""


def read_beside(image: ElfImage, path: str) -> Beside | None:
    """The file that the build left beside the vmlinux at `path`, which is `image`.

    None if nothing is needed or there. Raises EnvironmentProblem and MalformedImage.
    """
    sections = image.section_by_name
    if has_relocations(image) or ".symtab" not in sections or ".vmi.annotation" in sections:
        return None
    for place, is_list in _places(path):
        if os.path.isfile(place):
            data = read_file(place)
            if is_list or has_relocations(ElfImage.parse(data, place)):
                return Beside(place, sha256_of(data), data, is_list)
    return None


def _places(path: str) -> Iterator[tuple[str, bool]]:
    """Paths to look at, the best first, and whether each would be a list."""
    directory, base = os.path.split(path)
    for suffix, is_list in _SUFFIXES.items():
        for name in (base, "vmlinux"):
            yield os.path.join(directory, name + suffix), is_list
    yield os.path.join(directory, LIST), True


def linked_with(image: ElfImage, beside: Beside | None) -> LinkedKernel:
    """The kernel `image` with the references of `beside`.

    Raises NotSupported if there is nothing beside it, InputNotUnderstood if that is of another
    kernel, MalformedImage and what vmipatch.recover.complete raises.
    """
    if beside is None:
        raise NotSupported(
            Limit.RELOCATIONS_TAKEN_OUT,
            "the vmlinux has no relocations, so not every reference is known",
            file=image.name,
            place="section headers",
        )
    if beside.is_list:
        from vmipatch.recover import complete

        return complete(image, parse_list(beside.data, beside.path)).kernel
    whole = ElfImage.parse(beside.data, beside.path)
    require_same_kernel(image, whole)
    return LinkedKernel(whole, image)
