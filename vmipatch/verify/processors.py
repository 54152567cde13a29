# SPDX-License-Identifier: MIT
"""How many processors has a boot of `verify`? Two, if the kernel says that it is built for several.

What it says is its banner, which every Linux holds: the version of the build begins with the flag
SMP after its number (scripts/mkcompile_h, since 6.1 init/Makefile; init/version.c). A kernel that
says so and never starts a second processor is not harmed by one: the report counts those that ran.
"""

from __future__ import annotations

import re
from typing import Final

SMP_PROCESSORS: Final = 2
"""Of the boots of a kernel for several: enough for all code that one processor never reaches."""

_SMP_BANNER: Final = re.compile(rb"Linux version [^\0\n]* #[^\0\n]* SMP[ \n\0]")


def default_processors(data: bytes) -> int:
    """Processors for the boots of a kernel if a user does not choose; `data`: its ELF file."""
    return SMP_PROCESSORS if _SMP_BANNER.search(data) else 1
