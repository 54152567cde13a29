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

from vmipatch.errors import InputNotUnderstood
from vmipatch.files.file import read_file
from vmipatch.image.elf import ElfImage
from vmipatch.image.linked import LinkedKernel
from vmipatch.image.reloc_list import parse_list
from vmipatch.image.relocations import has_relocations
from vmipatch.image.twin import require_same_kernel

UNSTRIPPED: Final = "vmlinux.unstripped"
LIST: Final = "arch/x86/boot/compressed/vmlinux.relocs"


def linked_beside(image: ElfImage, path: str | None) -> LinkedKernel:
    """The kernel `image`, of the file at `path`, with the references that the build left beside it.

    Raises InputNotUnderstood if there are none, or those of another kernel; EnvironmentProblem,
    MalformedImage and what vmipatch.recover.complete raises.
    """
    directory = os.path.dirname(path) if path is not None else None
    if directory is not None:
        unstripped, listed = os.path.join(directory, UNSTRIPPED), os.path.join(directory, LIST)
        if os.path.isfile(unstripped):
            whole = ElfImage.parse(read_file(unstripped), unstripped)
            if has_relocations(whole):
                require_same_kernel(image, whole)
                return LinkedKernel(whole, image)
        if os.path.isfile(listed):
            from vmipatch.recover import complete

            return complete(image, parse_list(read_file(listed), listed)).kernel
    raise InputNotUnderstood(
        "the vmlinux has no relocations, so not every reference is known",
        file=image.name,
        place="section headers",
        hint=f"where the build takes them out, keep {UNSTRIPPED} or {LIST} beside it, as the build "
        "leaves them, or give the bzImage with this file as --debug; relocations of its own are "
        "left by CONFIG_RELOCATABLE=y",
    )
