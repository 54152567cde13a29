# SPDX-License-Identifier: MIT
"""How does this kernel mark the level of a line in its log: a byte 1 and a digit, or `<6>`?

Since 3.6 (include/linux/kern_levels.h) it is the former, before that the latter, and printk prints
the other as it is. The kernel's own calls of printk tell: as it has variable arguments, its format
is put on the stack, as a rule by the instruction in front of the call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vmipatch.tables.near_calls import near_calls
from vmipatch.tables.source import ImageSource

LOGGERS = ("_printk", "printk")
"""The kernel's log function: since 5.15, before."""

PUSH, STORE = b"\x68", b"\xc7\x04\x24"
"""push imm32; mov dword ptr [esp], imm32."""
OLD, NEW = re.compile(rb"<[0-7]>"), re.compile(rb"\x01[0-7]")
PREFIX_LEN, WORD_LEN = 3, 4


def logger_of(image: ImageSource) -> int | None:
    """The address of the log function; None if the kernel has none."""
    addresses = (image.symbols.address(name) for name in LOGGERS)
    return next((va for va in addresses if va is not None), None)


def has_old_levels(image: ImageSource) -> bool:
    """Whether most of the formats with a level that the kernel logs by are marked as before 3.6."""
    logger_va = logger_of(image)
    if logger_va is None:
        return False
    old = new = 0
    for format_va in _formats(image, logger_va):
        section = image.section_at(format_va)
        if section is None or not section.has_bytes or format_va + PREFIX_LEN > section.end_va:
            continue
        start = image.read(format_va, PREFIX_LEN)
        old += OLD.match(start) is not None
        new += NEW.match(start) is not None
    return old > new


def _formats(image: ImageSource, logger_va: int) -> Iterator[int]:
    """The top of the stack at each call of `logger_va`, where the code says so."""
    for call_va in near_calls(image, logger_va):
        section = image.section_at(call_va)
        assert section is not None, "a call lies in a section"
        word_va = call_va - WORD_LEN
        before_va = max(word_va - len(STORE), section.va)
        before = image.read(before_va, max(word_va - before_va, 0))
        if before.endswith((PUSH, STORE)):
            yield int.from_bytes(image.read(word_va, WORD_LEN), "little")
