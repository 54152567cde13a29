# SPDX-License-Identifier: MIT
"""Where does a kernel go on when paging is on, and where does it look for what its start left?

Xen starts a domain with paging on. What a kernel does before, from its first instruction to the far
jump after the switch, is left out, and the loader writes what it would have written. All of it
is read from the instructions there, which are the same from 2.6.2x to 6.x, with or without symbols
(Linux, arch/x86/kernel/head_32.S).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np

from vmipatch.errors import NotSupported
from vmipatch.image.elf import ElfImage
from vmipatch.limits import Limit

HEAD_LEN = 0x4000
"""How far the switch to paging may be from a kernel's first instruction."""
BOOT_PARAMS_LEN = 4096

_WORD = rb"(.{4})"
_SWITCH = re.compile(rb"\xb8" + _WORD + rb"\x0f\x22\xd8.{0,32}?\x0f\x22\xc0\xea" + _WORD, re.DOTALL)
"""MOV EAX, page directory; MOV CR3; MOV CR0 that switches paging on, and the far jump after it."""
_COPY = re.compile(rb"\xbf" + _WORD + rb"\xb9" + _WORD + rb"\xfc?\xf3\xa5", re.DOTALL)
"""MOV EDI, to; MOV ECX, words; REP MOVSD: of the boot parameters, then of the command line."""
_STACK = re.compile(rb"\x8b\x0d" + _WORD + rb"(?:(?!\x8b\x0d).){0,32}?\x8d\xa1" + _WORD, re.DOTALL)
"""MOV ECX, [word with the stack]; LEA ESP, [ECX - PAGE_OFFSET]."""
_MAPPED = re.compile(rb"\xc1\xe8\x0c\xa3" + _WORD, re.DOTALL)
"""SHR EAX, 12; MOV [max_pfn_mapped], EAX."""
_ADD_ESP, _LSS_ESP = b"\x81\xc4", b"\x0f\xb2\x25"
_FIXADDR_TOP = "__FIXADDR_TOP"


@dataclass(frozen=True, slots=True)
class KernelPlaces:
    """Linked virtual addresses, but for lengths and `page_offset`, the distance from physical."""

    page_offset: int
    entry: int
    stack: int
    page_directory: int
    page_middle: int
    boot_params: int
    command_line: int
    command_line_len: int
    max_pfn_mapped: int
    fixaddr_top: int


def find_places(image: ElfImage) -> KernelPlaces:
    """The places of a kernel that the loader needs.

    Raises NotSupported for a kernel without PAE, and for one whose start is not understood.
    """
    load = min(image.loads, key=lambda segment: segment.pa)
    page_offset = load.va - load.pa
    start = image.entry + (page_offset if image.entry < page_offset else 0)
    section = image.section_at(start)
    if section is None or not section.has_bytes:
        raise _unknown(image, "its first instruction is not in the file")
    code = image.read(start, min(HEAD_LEN, section.end_va - start))
    switch, target = _switch(image, code, start, page_offset)
    directory = _word(switch[1])
    entry, stack = _turn(image, code, code[target - start :], target, page_offset)
    boot_params, line, line_words = _copies(image, code[: switch.start()])
    mapped = _MAPPED.search(code)
    return KernelPlaces(
        page_offset=page_offset,
        entry=entry,
        stack=stack,
        page_directory=directory + page_offset,
        page_middle=_middle(image, directory + page_offset, page_offset),
        boot_params=boot_params + page_offset,
        command_line=line + page_offset,
        command_line_len=4 * line_words,
        max_pfn_mapped=_word(mapped[1]) + page_offset if mapped else 0,
        fixaddr_top=_fixaddr_top(image),
    )


def _word(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _unknown(image: ElfImage, what: str) -> NotSupported:
    return NotSupported(Limit.XEN_START, what, file=image.name, place=f"{image.entry:#x}")


def _switch(
    image: ElfImage, code: bytes, start: int, page_offset: int
) -> tuple[re.Match[bytes], int]:
    """The switch to paging, and the target of its jump, where the stack becomes virtual.

    A kernel that Xen can also start in its PVH mode has another one, with other code after it.
    """
    found = []
    for match in _SWITCH.finditer(code):
        target = _word(match[2])
        here = code[target - start :] if target >= start else b""
        adds = here.startswith(_ADD_ESP) and _word(here[2:6]) == page_offset
        if adds or here.startswith(_LSS_ESP):
            found.append((match, target))
    if len(found) != 1:
        raise _unknown(image, "the switch to paging is not found where the kernel starts")
    return found[0]


def _turn(
    image: ElfImage, code: bytes, here: bytes, target: int, page_offset: int
) -> tuple[int, int]:
    """Where to go on, and the word with the stack: it becomes virtual with the first instruction.

    From 2.6.38 on that adds PAGE_OFFSET to ESP, before it is LSS from a far pointer.
    """
    if here.startswith(_LSS_ESP):
        return target + len(_LSS_ESP) + 4, _word(here[3:7])
    stacks = {
        _word(match[1]) + page_offset
        for match in _STACK.finditer(code)
        if _word(match[2]) == -page_offset & 0xFFFFFFFF
    }
    if len(stacks) != 1:
        raise _unknown(image, "where it takes its stack, paging being on, is not found")
    return target + len(_ADD_ESP) + 4, stacks.pop()


def _copies(image: ElfImage, code: bytes) -> tuple[int, int, int]:
    """Where boot parameters and command line are copied to, and the words of the latter."""
    copies = [(_word(match[1]), _word(match[2])) for match in _COPY.finditer(code)]
    if len(copies) != 2 or 4 * copies[0][1] != BOOT_PARAMS_LEN:
        raise _unknown(image, "the copies of boot parameters and command line are not found")
    return copies[0][0], *copies[1]


def _middle(image: ElfImage, directory: int, page_offset: int) -> int:
    """The first level-2 table of the kernel's part, which the page directory in the file names."""
    section = image.section_at(directory)
    if section is not None and section.has_bytes:
        low, high = struct.unpack("<II", image.read(directory + 8 * (page_offset >> 30), 8))
        if low & 0xFFF == 1 and not high:
            return int(low & ~0xFFF) + page_offset
    raise NotSupported(Limit.XEN_PAE, file=image.name)


def _fixaddr_top(image: ElfImage) -> int:
    """The word __FIXADDR_TOP, by the symbols or as what is exported to modules."""
    va = image.symbols.address(_FIXADDR_TOP)
    va = va if va is not None else _exported(image, _FIXADDR_TOP)
    if va is None:
        raise _unknown(image, f"it has no word {_FIXADDR_TOP}: its fixed mappings cannot move")
    return va


def _exported(image: ElfImage, name: str) -> int | None:
    """The address that __ksymtab gives a name: value and name, absolute or relative to the word."""
    strings = image.section_by_name.get("__ksymtab_strings")
    table = image.section_by_name.get("__ksymtab")
    if strings is None or table is None:
        return None
    off = (b"\0" + image.section_bytes(strings)).find(b"\0" + name.encode() + b"\0")
    if off < 0:
        return None
    words = np.frombuffer(image.section_bytes(table), "<u4", count=table.size // 4)
    places = table.va + 4 * np.arange(len(words), dtype=np.uint32)
    for values in (words, words + places.astype(np.uint32)):
        hits = np.flatnonzero(values == strings.va + off)
        if len(hits) == 1 and hits[0]:
            return int(values[hits[0] - 1])
    return None
