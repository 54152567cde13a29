# SPDX-License-Identifier: MIT
"""Which labels name a word inside of an instruction, and not an instruction?

Xen's patch templates (arch/x86/xen/xen-asm.S of Linux 2.6.23 to 4.x) have one on the displacement
of a call, which the kernel relocates where it copies them to: `xen_irq_enable_direct_reloc = 2b+1`.
The linear decoding from the label before to the label after must agree: the label is where an
operand of four bytes begins, which a relocation says, or the form of a near branch into the code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from vmipatch.isa.decode import Flow, decode

WORD_LEN = 4
NEAR_BRANCHES = (0xE8, 0xE9)
ESCAPE, NEAR_CONDITIONS = 0x0F, range(0x80, 0x90)


def inner_labels(
    code: bytes, va: int, labels: Sequence[int], candidates: Collection[int], words: Collection[int]
) -> list[int]:
    """Those of `candidates` that name an operand of the code at `va`, ascending.

    `labels` are all of the section, the candidates among them; `words` are places of relocated
    words.
    """
    ascending = sorted({label for label in labels if va <= label < va + len(code)})
    likely = [c for c in ascending if c in candidates and _is_likely(code, va, c, words)]
    edges = [va, *sorted(set(ascending) - set(likely)), va + len(code)]
    return sorted(_confirmed(code, va, edges, likely, words)) if likely else []


def _is_likely(code: bytes, va: int, label: int, words: Collection[int]) -> bool:
    """Whether it may be the word of an operand: by its relocation, or as a near branch has it."""
    at = label - va
    if not 0 < at <= len(code) - WORD_LEN:
        return False
    if label in words:
        return True
    is_near = code[at - 1] in NEAR_BRANCHES
    is_near |= at > 1 and code[at - 2] == ESCAPE and code[at - 1] in NEAR_CONDITIONS
    reach = int.from_bytes(code[at : at + WORD_LEN], "little", signed=True)
    return is_near and 0 <= at + WORD_LEN + reach < len(code)


def _confirmed(
    code: bytes, va: int, edges: Sequence[int], likely: Sequence[int], words: Collection[int]
) -> Iterator[int]:
    """The labels that lie in an instruction's operand as decoded between two others."""
    for low, high in pairwise(edges):
        mine = [label for label in likely if low < label < high]
        if not mine:
            continue
        stream = decode(code[low - va : high - va], low)
        for label in mine:
            index = stream.index_over(label)
            start, end = int(stream.starts[index]), int(stream.starts[index] + stream.lens[index])
            is_operand = start < label and label + WORD_LEN <= end
            ends_branch = label + WORD_LEN == end and Flow(int(stream.flows[index])) in (
                Flow.CALL,
                Flow.JUMP,
                Flow.CONDITION,
            )
            if is_operand and (label in words or ends_branch):
                yield label
