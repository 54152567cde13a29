# SPDX-License-Identifier: MIT
"""A kernel whose initial code has no room to grow, and no code between relocated words to move."""

from __future__ import annotations

from tests.rewrite.smallkernel import INIT_TEXT_VA, PAGE, Block, Branch, SmallKernel, Word
from tests.support.elfbuilder import DATA, TEXT

SLACK_LEN = 20


def crowded_init() -> SmallKernel:
    """21 sites, each with a relocated word on both sides, and 20 bytes of slack."""
    kernel = SmallKernel()
    kernel.text.function("f", "fa c3")
    crowd(kernel, INIT_TEXT_VA, SLACK_LEN)
    kernel.writable().label("variable")
    kernel.blocks[-1].put("00000000")
    return kernel


def crowd(kernel: SmallKernel, va: int, slack_len: int) -> Block:
    """The initial code of such a kernel at `va`, and its data, which is what comes back.

    The labels `f` and `variable` are the caller's.
    """
    init = kernel.block(".init.text", va, TEXT)
    unit = "a1", Word("variable"), "fa", Branch("e8", "f"), "fa c705", Word("variable"), Word("f")
    init.function("setup", *unit * 10, "fa c3")
    init.put("40" * (PAGE - slack_len - len(init.data)))
    data = kernel.block(".init.data", va + PAGE, DATA)
    data.put(Word("setup"))
    return data
