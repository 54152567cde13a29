# SPDX-License-Identifier: MIT
"""Which kernels are the site tests about?"""

from __future__ import annotations

from functools import cache

from examples.guest import build
from vmipatch.choices import Flavor
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite
from vmipatch.rom import build_rom


@cache
def example() -> ElfImage:
    """The example guest."""
    return ElfImage.parse(build(), "guest")


@cache
def rewritten_example() -> ElfImage:
    """The same, rewritten."""
    return ElfImage.parse(rewrite(example()).data, "guest.vmi")


@cache
def paravirt_rom() -> bytes:
    """Our ROM."""
    return build_rom(Flavor.PARAVIRT).data
