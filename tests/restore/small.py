# SPDX-License-Identifier: MIT
"""A small kernel with one of everything that a note has to know."""

from __future__ import annotations

from tests.rewrite.smallkernel import Branch, Distance, Short, SmallKernel, Word


def kernel_with_everything(*, room: bool = True) -> SmallKernel:
    """Sites of each shape, branches across them, absolute words, distances, filler of all kinds."""
    kernel = SmallKernel(room=room)
    text = kernel.text
    text.function("f", "fa", Branch("e8", "g"), Short("75", "f"), "fb c3")
    text.function("g", "9c 58 fa", Branch("0f 84", "f"), "9d c3", filler=b"\xcc")
    text.function("h", "0f 20 d8 fb f4", "b8", Word("g"), "8b 04 85", Word("table"), "c3", align=64)
    rodata = kernel.rodata()
    rodata.label("table")
    rodata.put(Word("f"), Word("g"), Distance("h"), "00112233", Word("h", 3))
    writable = kernel.writable()
    writable.put(Word("table"), bytes(range(64)))
    return kernel
