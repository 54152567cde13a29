# SPDX-License-Identifier: MIT
"""A small i386 kernel that executes every class of sensitive instruction and says what it saw.

The sources are the `.S` files beside this one; `build()` gives the ELF file. They are grouped
by topic: boot (head, main, shutdown), services (console, paging, traps, irq, tasks, syscalls),
a second processor (smp), ring 3 (user) and the observations (sensitive_*).
"""

from examples.guest.build import build

__all__ = ["build"]
