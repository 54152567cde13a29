# SPDX-License-Identifier: MIT
"""How does a test get kallsyms as some version of Linux stores them?

    for name, data in parts(symbols, Style.NAMES_FIRST, at_va=0xC1003000):
        ...

Written from scripts/kallsyms.c of each version; tokens are single letters, which compress nothing.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence

MARKER_STEP = 256
PRINTABLE = range(0x20, 0x7F)


class Style(enum.Enum):
    """The meaning of the words, and the order in which the parts follow each other."""

    ADDRESSES = "up to 4.5"
    OFFSETS = "from 4.6"
    SEQS = "6.2 and 6.3"
    NAMES_FIRST = "from 6.4"
    DISTANCES = "7.2"


NAMES_FIRST = (Style.NAMES_FIRST, Style.DISTANCES)
WITH_SEQS = (Style.SEQS, *NAMES_FIRST)


def parts(
    symbols: Sequence[tuple[int, str]], style: Style, at_va: int
) -> list[tuple[str, int, bytes]]:
    """Name, address and bytes of each part, from `at_va` on.

    `symbols` are addresses, ascending, and names with the letter of nm in front.
    """
    packed = _packed([name for _, name in symbols], style)
    order = _order(style)
    result: list[tuple[str, int, bytes]] = []
    for name in order:
        if name in ("kallsyms_offsets", "kallsyms_addresses"):
            data = _words([va for va, _ in symbols], style, at_va)
        elif name == "kallsyms_relative_base":
            data = struct.pack("<I", symbols[0][0])
        else:
            data = packed[name]
        data += bytes(-len(data) % 4)
        result.append((name, at_va, data))
        at_va += len(data)
    return result


def _order(style: Style) -> list[str]:
    names = ["kallsyms_num_syms", "kallsyms_names", "kallsyms_markers"]
    tokens = ["kallsyms_token_table", "kallsyms_token_index"]
    seqs = ["kallsyms_seqs_of_names"] if style in WITH_SEQS else []
    words = ["kallsyms_offsets", "kallsyms_relative_base"]
    if style is Style.ADDRESSES:
        words = ["kallsyms_addresses"]
    elif style is Style.DISTANCES:
        words = ["kallsyms_offsets"]
    if style in NAMES_FIRST:
        return [*names, *tokens, *words, *seqs]
    return [*words, *names, *seqs, *tokens]


def _words(vas: Sequence[int], style: Style, at_va: int) -> bytes:
    origins = {
        Style.ADDRESSES: [0] * len(vas),
        Style.DISTANCES: [at_va + 4 * i for i in range(len(vas))],
    }.get(style, [vas[0]] * len(vas))
    values = [(va - origin) & 0xFFFFFFFF for va, origin in zip(vas, origins, strict=True)]
    return struct.pack(f"<{len(vas)}I", *values)


def _packed(names: Sequence[str], style: Style) -> dict[str, bytes]:
    records = [_length(len(name)) + name.encode() for name in names]
    offsets = [sum(map(len, records[:i])) for i in range(0, len(records), MARKER_STEP)]
    by_name = sorted(range(len(names)), key=lambda i: (names[i][1:], i))
    tokens = [bytes((code, 0)) if code in PRINTABLE else b"?\0" for code in range(256)]
    return {
        "kallsyms_num_syms": struct.pack("<I", len(names)),
        "kallsyms_names": b"".join(records),
        "kallsyms_markers": struct.pack(f"<{len(offsets)}I", *offsets),
        "kallsyms_token_table": b"".join(tokens),
        "kallsyms_token_index": struct.pack("<256H", *range(0, 512, 2)),
        "kallsyms_seqs_of_names": b"".join(i.to_bytes(3, "big") for i in by_name),
    }


def _length(count: int) -> bytes:
    """The length of a name: one byte, or two of 7 bits from 128 on."""
    return bytes((count,)) if count < 0x80 else bytes((count & 0x7F | 0x80, count >> 7))
