# SPDX-License-Identifier: MIT
"""Where did each address of a kernel go? A text file for people and scripts."""

from __future__ import annotations

from vmipatch.rewrite import RewrittenImage


def address_map(result: RewrittenImage) -> str:
    """One line for each range that moves as one: old start, new start, both ways readable."""
    header = "# old start, new start; a range reaches to the next line\n"
    new = result.placement.map
    pairs = zip(new.starts.tolist(), new.deltas.tolist(), strict=True)
    return header + "".join(f"{old:08x} {old + delta:08x}\n" for old, delta in pairs)
