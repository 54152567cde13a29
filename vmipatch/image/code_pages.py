# SPDX-License-Identifier: MIT
"""Which pages of code are copied or written as a whole?

- ACPI's S3 copies one of 16-bit code to low memory: arch/i386/kernel/acpi/wakeup.S of Linux 2.6.12
  to 2.6.24 has it in .text, code of real mode and variables between `wakeup_start` and
  `wakeup_end`, addressed by distances that the assembler computed. From 2.6.25 on it is a program
  of its own, among data.
- Xen writes its hypercalls over one, by its physical address: arch/x86/xen/xen-head.S reserves it,
  with zeros or with one ret in each 32 bytes. It begins where a page does.
"""

from __future__ import annotations

from vmipatch.image.elf import ElfImage
from vmipatch.isa.real_mode import enters_protected_mode

START, END = "wakeup_start", "wakeup_end"
PAGE = 0x1000
PARAGRAPH = 16
"""The alignment of a segment of real mode, in bytes."""
HYPERCALL_LEN = 32
RET, FILLERS = b"\xc3", b"\x90\xcc"


def code_pages(image: ElfImage) -> list[tuple[int, int]]:
    """[start, end) of each such page, ascending."""
    page = real_mode_page(image)
    return sorted([*([page] if page else []), *_hypercall_pages(image)])


def real_mode_page(image: ElfImage) -> tuple[int, int] | None:
    """[start, end) of the 16-bit code; None where nothing of the kind is."""
    start, end = image.symbols.address(START), image.symbols.address(END)
    if start is None or end is None or not 0 < end - start <= PAGE or start % PARAGRAPH:
        return None
    section = next((s for s in image.executable_sections if s.va <= start < s.end_va), None)
    if section is None or end > section.end_va:
        return None
    return (start, end) if enters_protected_mode(image.read(start, end - start)) else None


def _hypercall_pages(image: ElfImage) -> list[tuple[int, int]]:
    """Pages that begin with a symbol and hold nothing yet."""
    entries = image.symbols.entries
    result = []
    for section in image.executable_sections:
        mine = entries["value"][entries["shndx"] == section.index]
        for va in sorted(set(mine[mine % PAGE == 0].tolist())):
            if va + PAGE <= section.end_va and _is_reserved(image.read(va, PAGE)):
                result.append((va, va + PAGE))
    return result


def _is_reserved(page: bytes) -> bool:
    """Whether a page is all zeros, or a ret among filler in each hypercall's place."""
    if not any(page):
        return True
    first = page[:HYPERCALL_LEN]
    if first.count(RET) != 1 or first.strip(RET + FILLERS):
        return False
    return page == first * (PAGE // HYPERCALL_LEN)
