# SPDX-License-Identifier: MIT
"""What can a user choose? The closed sets and defaults of the commands and of `import vmipatch`.

They stand apart from the packages that act on them, so that a command line that only has to
complete a word or to print its help loads nothing else.
"""

from __future__ import annotations

import enum
from typing import Final


class Padding(enum.Enum):
    """How sites are filled up."""

    PREFIX = "prefix"
    NOP = "nop"


class BootCodeChoice(enum.Enum):
    """Whose boot code starts a rewritten bzImage."""

    AUTO = "auto"
    """The kernel's own if it is understood."""
    KEEP = "keep"
    OWN = "own"


class Flavor(enum.Enum):
    """The purpose of a ROM."""

    PARAVIRT = "paravirt"  # for the hypervisor of this package
    NATIVE = "native"  # for any PC: every call is the instruction itself
    TRACE = "trace"  # native, and each call writes its number to TRACE_PORT


class Api(enum.Enum):
    """The major version of the interface that a ROM answers."""

    THREE = "3"  # 3.1: Linux 2.6.21-2.6.36 and rewritten kernels
    THIRTEEN = "13"  # 13.0: the patches of March 2006


class Mode(enum.Enum):
    """Which privilege the guest kernel of a machine has, and who watches."""

    NATIVE = "native"  # CPL 0
    TRAP = "trap"  # CPL 1, everything sensitive is emulated
    PARAVIRT = "paravirt"  # as TRAP until VMI_Init, then as on hardware with a hypervisor
    AUDIT = "audit"  # as PARAVIRT, but what should have been a call is still seen

    @property
    def has_rom(self) -> bool:
        """Whether the guest finds a ROM."""
        return self in (Mode.PARAVIRT, Mode.AUDIT)


class Extent(enum.Enum):
    """How much a verification does."""

    STATIC = "static"  # the static check alone
    SITES = "sites"  # each shape of site alone, in more states
    QUICK = "quick"  # and the audited paravirtual boot
    NORMAL = "normal"  # and native boots, whose consoles and system calls are compared
    FULL = "full"  # and a trapped boot and an unobserved paravirtual one
    LOCKSTEP = "lockstep"  # the static check, and three machines compared event by event


STATES: Final = 20
"""Random states in which a verification executes each shape of site."""
CAMPAIGN_STATES: Final = 100
"""The same where the shapes of sites are all that is looked at."""
MOST_VARIED: Final = 500
"""Boots of the original with a shifted timer: with more, shifts would be too near each other."""
TIMEOUT_S: Final = 3600
"""Real time for one boot: what takes a minute on a quiet host may take many on a busy one."""
LIMIT_NS: Final = 300_000_000_000
"""Virtual time for one boot; Debian's kernels take some 20 s for verify's own workload."""
DOMAIN_MEMORY: Final = (64, 128, 256, 512)
"""MiB that a domain of Xen may have. Xen gives it as one block if it is a power of two, and Linux
maps no block that ends above about 880 MiB."""
DEFAULT_DOMAIN_MEMORY: Final = 128
