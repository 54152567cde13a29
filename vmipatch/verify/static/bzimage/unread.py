# SPDX-License-Identifier: MIT
"""Which bytes of the boot code's data does nothing read? Those that only a dynamic linker would.

GNU ld -pie adds them, and boot code meets no dynamic linker. They are found as one would find them:
the first word of the global offset table is the place of .dynamic, which lists the rest. They must
hold what they held.
Source: System V ABI, chapter 5, "Dynamic Section", and its supplement for i386.
"""

from __future__ import annotations

from vmipatch.verify.static.bzimage.boot_code import WORD_LEN, BootCode

_MOST_ENTRIES = 64
_HASH, _STRINGS, _SYMBOLS, _STRINGS_LEN, _SYMBOL_LEN, _REL, _REL_LEN = 4, 5, 6, 10, 11, 17, 18
_GNU_HASH = 0x6FFFFEF5


def unread_words(boot: BootCode) -> frozenset[int]:
    """Offsets of the bytes of such tables; none where .dynamic is not of the ABI's form."""
    dynamic = _word(boot, boot.got)
    entries: dict[int, int] = {}
    for at in range(dynamic, dynamic + _MOST_ENTRIES * 2 * WORD_LEN, 2 * WORD_LEN):
        tag = _word(boot, at)
        if tag == 0:
            break
        if tag in entries or not (0 < tag <= 34 or 0x6FFFFD00 <= tag < 0x70000000):
            return frozenset()
        entries[tag] = _word(boot, at + WORD_LEN)
    else:
        return frozenset()
    if entries.get(_SYMBOL_LEN) != 16:
        return frozenset()
    tables = [(dynamic, (len(entries) + 1) * 2 * WORD_LEN)]
    for start, length in ((_STRINGS, _STRINGS_LEN), (_REL, _REL_LEN)):
        if start in entries and length in entries:
            tables.append((entries[start], entries[length]))
    tables += _symbols(boot, entries)
    return frozenset(
        off
        for start, length in tables
        if boot.text[1] <= start and start + length <= len(boot.code)
        for off in range(start, start + length)
    )


def _symbols(boot: BootCode, entries: dict[int, int]) -> list[tuple[int, int]]:
    """Starts and lengths of the table of symbols and of the one that tells how many there are."""
    if _HASH in entries:
        start = entries[_HASH]
        buckets, count = _word(boot, start), _word(boot, start + WORD_LEN)
        words = 2 + buckets + count
    elif _GNU_HASH in entries:
        start = entries[_GNU_HASH]
        buckets, first, filters = (_word(boot, start + WORD_LEN * i) for i in range(3))
        if buckets > len(boot.code) or filters > len(boot.code):
            return []
        heads = [_word(boot, start + WORD_LEN * (4 + filters + i)) for i in range(buckets)]
        count, words = first, 4 + filters + buckets
        if (last := max(heads, default=0)) >= first:
            # A word for each symbol from the first hashed one on; an odd one ends its bucket.
            chains = start + WORD_LEN * (words - first)
            numbers = range(last, first + len(boot.code) // WORD_LEN)
            ends = (n for n in numbers if _word(boot, chains + WORD_LEN * n) & 1)
            count = next(ends, last) + 1
            words += count - first
    else:
        return []
    return [(start, WORD_LEN * words), (entries[_SYMBOLS], 16 * count)]


def _word(boot: BootCode, off: int) -> int:
    """The word at `off` of the data; outside of them 0, which ends a list of tags."""
    if not boot.text[1] <= off <= len(boot.code) - WORD_LEN:
        return 0
    return int.from_bytes(boot.code[off : off + WORD_LEN], "little")
