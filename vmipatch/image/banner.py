# SPDX-License-Identifier: MIT
"""Which release of Linux is a kernel or module, by its own word?

A kernel says it in `linux_banner` (init/version.c), a bzImage in its setup code, a module in its
`vermagic` (include/linux/vermagic.h). The rest of a banner names who built it where, and is never
taken along.
"""

from __future__ import annotations

import re
from typing import Final

from vmipatch.image.elf import ElfImage

_BANNER: Final = re.compile(rb"Linux version (\d+\.\d+[!-~]*) \(")
_VERMAGIC: Final = re.compile(rb"\0?vermagic=([!-~]+) ")
_NUMBERS: Final = re.compile(r"(\d+)\.(\d+)")


def release_of(image: ElfImage) -> str:
    """The release by the banner of a kernel, such as "6.1.0-50-686"; empty if it has none."""
    va = image.symbols.address("linux_banner")
    section = None if va is None else image.section_at(va)
    is_there = va is not None and section is not None and section.has_bytes
    found = _BANNER.search(image.data, image.offset_of(va) if va is not None and is_there else 0)
    return "" if found is None else found[1].decode("ascii")


def release_of_module(file: ElfImage) -> str:
    """The release that a module was built for; empty if it does not say."""
    section = file.section_by_name.get(".modinfo")
    found = None if section is None else _VERMAGIC.search(file.section_bytes(section))
    return "" if found is None else found[1].decode("ascii")


def numbers_of(release: str) -> tuple[int, int] | None:
    """Version and patch level of a release, None if it does not begin with them."""
    found = _NUMBERS.match(release)
    return None if found is None else (int(found[1]), int(found[2]))
