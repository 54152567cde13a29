# SPDX-License-Identifier: MIT
"""Which bytes between two functions did the linker put there, that are no instructions?

A linker script gives a filler for gaps between input sections, Linux's is `=0xcccc` (`=0x9090` up
to 5.0). GNU ld repeats these two bytes. LLVM's lld takes the number for a word of four bytes, most
significant first, and begins with it anew in each gap (ELF/OutputSections.cpp, fill): the last copy
is cut to the length of the gap, down to one 00. Gaps of zeros come from sections without a filler.

What is filler is told by where it stands: from an instruction that does not go on, from a call (it
need not return), from the end of a function or from the assembler's own filler, up to a label or
the end of the section.
"""

from __future__ import annotations

import re

import numpy as np

Addresses = np.ndarray
"""Ascending addresses (i64)."""

_FILL = re.compile(
    rb"\0+(?:(?<=\0\0)(?:\xcc\xcc?\0+))*(?:(?<=\0\0)\xcc\xcc?)?"
    rb"|\0+(?:(?<=\0\0)(?:\x90\x90?\0+))*(?:(?<=\0\0)\x90\x90?)?"
)
"""Gap after gap (an empty section lies between two), each a number of `00 00 cc cc`, the last of
them cut. Fillers of instructions alone (cc, 90) are not among them: decoders know those."""


def is_link_fill(run: bytes) -> bool:
    """Whether a linker could have filled a gap with just these bytes."""
    return _FILL.fullmatch(run) is not None


def link_fills(
    code: bytes, va: int, labels: Addresses, ends: Addresses, core: Addresses
) -> list[tuple[int, int]]:
    """The ranges of `code`, linked at `va`, that a linker filled, in address order.

    `labels` are where code begins; `ends` where a function ends, or a call (it may not return) or
    an instruction that does not go on; `core` the starts of all that is not the assembler's filler,
    which may come first.
    """
    before = np.append(labels[(labels > va) & (labels < va + len(code))], va + len(code))
    octets = np.frombuffer(code, np.uint8)
    known = np.concatenate([[va - 1], ends[ends >= va]])
    core = np.append(core, va + len(code))
    start = known[np.searchsorted(known, before) - 1]
    found = np.flatnonzero(start >= va)
    start, before = start[found], before[found]
    start = np.where(octets[start - va] == 0, start, core[np.searchsorted(core, start)])
    inside = np.flatnonzero(start < before)
    inside = inside[octets[start[inside] - va] == 0]
    pairs = zip(start[inside].tolist(), before[inside].tolist(), strict=True)
    return [(s, e) for s, e in pairs if is_link_fill(code[s - va : e - va])]
