# SPDX-License-Identifier: MIT
"""Random draws: the same in each run of the suite, new ones where somebody asks.

A red run says that the change is at fault, so what the suite draws must not differ from the run
before it (docs/decisions/0053). Campaigns draw anew and print their seed.
"""

from __future__ import annotations

import os
import random

SEED = 20060703
"""The seed of the suite: a number that says nothing of any kernel."""


def drawn_seed() -> int:
    """The seed of a test: `VMIPATCH_SEED`, a number or `new`; without it, `SEED`. It is printed."""
    told = os.environ.get("VMIPATCH_SEED")
    value = random.SystemRandom().randrange(1 << 32) if told == "new" else int(told or SEED)
    print(f"VMIPATCH_SEED={value}")
    return value
