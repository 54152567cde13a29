# SPDX-License-Identifier: MIT
"""Does a boot loader still find a rewritten multiboot kernel, and load all of it?"""

from __future__ import annotations

from vmipatch.errors import NotSupported
from vmipatch.image.elf import ElfImage
from vmipatch.image.multiboot import MultibootHeader, multiboot_headers
from vmipatch.limits import Limit


def require_elf_loading(image: ElfImage) -> None:
    """Raise NotSupported if a header names load addresses: what is added would not be loaded."""
    for header in multiboot_headers(image.data):
        if header.addresses is not None or header.entries:
            raise NotSupported(
                Limit.BOOT_HEADER,
                "its multiboot header gives addresses of its own, by which annotations would not "
                "be loaded",
                file=image.name,
                place=f"offset {header.off:#x}",
            )


def require_headers_found(image: ElfImage, data: bytes) -> None:
    """Raise NotSupported unless the output `data` has the headers of `image`, where one may be."""
    before, after = multiboot_headers(image.data), multiboot_headers(data)
    if [_content(each) for each in before] != [_content(each) for each in after]:
        raise NotSupported(
            Limit.BOOT_HEADER,
            "code before its multiboot header grows, and no loader would find the header",
            file=image.name,
            place=f"offset {before[0].off:#x}" if before else "",
        )


def _content(header: MultibootHeader) -> tuple[int, int, int]:
    return header.version, header.flags, header.length
