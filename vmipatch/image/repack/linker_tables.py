# SPDX-License-Identifier: MIT
"""Which words of the boot code's data are tables for a dynamic linker, which it never meets?

GNU ld with -pie adds .dynsym, .dynstr, a hash table, .rel.dyn and .dynamic (seen in 4.8 to 4.17;
from 5.8 on the linker script discards them). Boot code loads and moves itself: nothing reads these
tables, and their symbols may be the addresses of labels. The first word of the global offset table
names .dynamic, .dynamic names the rest.
Source: System V ABI, chapter 5, "Dynamic Section"; its i386 supplement, "Global Offset Table".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_ENTRY = struct.Struct("<II")
_NULL, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _REL, _RELSZ = 0, 4, 5, 6, 10, 11, 17, 18
_GNU_HASH = 0x6FFFFEF5
_HIGHEST_TAG = 34
_OS_TAGS = range(0x6FFFFD00, 0x70000000)
_SYMBOL_LEN = 16
_Range = tuple[int, int]


def linker_tables(code: bytes, got_off: int, start: int) -> tuple[_Range, ...]:
    """Half-open ranges of the tables in `code`, whose data begin at `start`.

    `got_off` is the place of the global offset table. Empty where it does not name a .dynamic of
    the ABI's form; a table outside of the data is left out. All other words have to be explained.
    """
    if not start <= got_off <= len(code) - 4:
        return ()
    (dynamic_off,) = struct.unpack_from("<I", code, got_off)
    tags = _tags(code, dynamic_off, start)
    if tags is None or tags.get(_SYMENT) != _SYMBOL_LEN:
        return ()
    found = [
        (dynamic_off, dynamic_off + _ENTRY.size * (len(tags) + 1)),
        (tags.get(_STRTAB, 0), tags.get(_STRTAB, 0) + tags.get(_STRSZ, 0)),
        (tags.get(_REL, 0), tags.get(_REL, 0) + tags.get(_RELSZ, 0)),
        *_symbols(code, tags, start),
    ]
    return tuple(sorted((low, high) for low, high in found if start <= low < high <= len(code)))


def _tags(code: bytes, off: int, start: int) -> dict[int, int] | None:
    """The entries of .dynamic at `off`, without the last; None if that is not one."""
    found: dict[int, int] = {}
    while start <= off <= len(code) - _ENTRY.size:
        tag, value = _ENTRY.unpack_from(code, off)
        if tag == _NULL:
            return found
        if tag in found or not (tag <= _HIGHEST_TAG or tag in _OS_TAGS):
            return None
        found[tag] = value
        off += _ENTRY.size
    return None


def _symbols(code: bytes, tags: Mapping[int, int], start: int) -> list[_Range]:
    """The table of symbols and the hash table, which alone tells how many there are."""
    symtab = tags.get(_SYMTAB, 0)
    if (at := tags.get(_HASH, 0)) and start <= at <= len(code) - _ENTRY.size:
        buckets, chains = _ENTRY.unpack_from(code, at)
        end, count = at + 4 * (2 + buckets + chains), chains
    elif (at := tags.get(_GNU_HASH, 0)) and start <= at <= len(code) - 16:
        end, count = _gnu_hash(code, at)
    else:
        return []
    return [(at, end), (symtab, symtab + _SYMBOL_LEN * count)]


def _gnu_hash(code: bytes, at: int) -> _Range:
    """End of the GNU hash table at `at`, and number of symbols.

    Header (buckets, first symbol that is hashed, words of the filter, shift), filter, buckets, and
    for each hashed symbol a word, of which the last of a bucket's has bit 0 set.
    """
    buckets, first, filter_len, _ = struct.unpack_from("<4I", code, at)
    chains = at + 4 * (4 + filter_len + buckets)
    if chains > len(code):
        return at, 0
    last = max(struct.unpack_from(f"<{buckets}I", code, chains - 4 * buckets), default=0)
    if last < first:
        return chains, first
    end = chains + 4 * (last - first)
    while end <= len(code) - 4 and not code[end] & 1:
        end += 4
    return end + 4, first + (end - chains) // 4 + 1
