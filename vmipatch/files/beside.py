# SPDX-License-Identifier: MIT
"""What did the build leave beside a vmlinux that has no relocations any more?

    vmlinux
    vmlinux.unstripped                             the same with relocations (Linux 6.17 on)
    arch/x86/boot/compressed/vmlinux.relocs        the list of absolute words (6.12 on, and before)

Source: arch/x86/Makefile.postlink of Linux 6.12, scripts/Makefile.vmlinux of 7.2.
"""

from __future__ import annotations

import os
from typing import Final

from vmipatch.errors import NotSupported
from vmipatch.files.file import read_file
from vmipatch.image.elf import ElfImage
from vmipatch.image.linked import LinkedKernel
from vmipatch.image.reloc_list import parse_list
from vmipatch.image.relocations import has_relocations
from vmipatch.image.twin import require_same_kernel
from vmipatch.limits import Limit

UNSTRIPPED: Final = "vmlinux.unstripped"
LIST: Final = "arch/x86/boot/compressed/vmlinux.relocs"


def linked_beside(image: ElfImage, path: str | None) -> LinkedKernel:
    """The kernel `image`, of the file at `path`, with the references that the build left beside it.

    Raises InputNotUnderstood if there are none, or those of another kernel; EnvironmentProblem,
    MalformedImage and what vmipatch.recover.complete raises.
    """
    found = whole_beside(image, path)
    listed = None if path is None else os.path.join(os.path.dirname(path), LIST)
    if found is None and listed is not None and os.path.isfile(listed):
        from vmipatch.recover import complete

        found = complete(image, parse_list(read_file(listed), listed)).kernel
    if found is not None:
        return found
    raise NotSupported(
        Limit.RELOCATIONS_TAKEN_OUT,
        "the vmlinux has no relocations, so not every reference is known",
        file=image.name,
        place="section headers",
    )


def whole_beside(image: ElfImage, path: str | None) -> LinkedKernel | None:
    """The same, if the file with relocations is there.

    Raises InputNotUnderstood if it is of another kernel, EnvironmentProblem and MalformedImage.
    """
    unstripped = None if path is None else os.path.join(os.path.dirname(path), UNSTRIPPED)
    if unstripped is None or not os.path.isfile(unstripped):
        return None
    whole = ElfImage.parse(read_file(unstripped), unstripped)
    if not has_relocations(whole):
        return None
    require_same_kernel(image, whole)
    return LinkedKernel(whole, image)
