# SPDX-License-Identifier: MIT
"""Where in a rewritten kernel does its runtime hand over to the kernel?"""

from __future__ import annotations

from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import START, hook_va
from vmipatch.image.stored_json import json_value

_MANIFEST = ".vmi.manifest"


def start_name(image: ElfImage) -> str:
    """The name of the function before which the runtime of `image` runs, as its manifest says.

    Linux's if there is no manifest that can be read: other checks report that.
    """
    section = image.section_by_name.get(_MANIFEST)
    if section is None:
        return START
    try:
        said = json_value(image.section_bytes(section).rstrip(b"\0")).get("start", START)
    except (ValueError, AttributeError):
        return START
    return said if isinstance(said, str) else START


def hook_of(image: ElfImage) -> tuple[str, int | None]:
    """The name of that function and its address, None if no or more than one function has it."""
    name = start_name(image)
    return name, hook_va(image, name)
