# SPDX-License-Identifier: MIT
"""Which words a bzImage's boot code must add its distance to: `vmlinux.relocs`.

Linux's build derives the list from the relocations of vmlinux (arch/x86/tools/relocs.c, 32-bit
mode, non-realmode part) and appends it to the ELF file inside the payload: a 0 word, then the
addresses, rising. The boot code reads it backwards from the end up to the 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from vmipatch.errors import MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, Relocations
from vmipatch.image.symbols import SHN_ABS
from vmipatch.image.types import SectionKind

_ADDRESSES_LINKERS_MADE_ABSOLUTE = re.compile(
    r"_end|jiffies(_64)?|__end_rodata(_aligned)?|__initramfs_start|__init_(begin|end)"
    r"|__(parainstructions|alt_instructions|iommu_table|apicdrivers|smp_locks)(_end)?"
    r"|__x86_cpu_dev_(start|end)|__tracedata_(start|end)"
    r"|__(start|end)_(pci_.*|builtin_fw)"
    r"|__(start|stop)___(ksymtab(_gpl)?|kcrctab(_gpl)?|param|modver|bug_table)"
    r"|__(start|stop)_notes"
)
"""Symbols that a linker script defines outside of a section, which some versions of ld then call
absolute, though they are addresses (S_REL in relocs.c)."""


def relocation_list(
    image: ElfImage, relocations: Relocations, *, with_notes: bool = False
) -> tuple[int, ...]:
    """The linked virtual addresses, rising, of the words that move with the kernel.

    These are the R_386_32 words of allocated sections, but for references to absolute symbols
    (plain numbers) and for notes, which are read before the kernel is moved. `with_notes`: as
    builds listed those, too, before arch/x86/tools/relocs.c of 6.9 (and of 5.10.214, 6.1.83).
    Raises MalformedImage if a relocation names a symbol that the file does not have.
    """
    entries = relocations.entries
    notes = [s.index for s in image.sections if s.kind is SectionKind.NOTE and not with_notes]
    moved = entries[(entries["kind"] == R_386_32) & ~np.isin(entries["section"], notes)]
    symbols = image.symbols
    if len(moved) and int(moved["symbol"].max()) >= len(symbols):
        raise MalformedImage(
            "a relocation names a symbol that does not exist",
            file=image.name,
            place=".symtab",
        )
    absolute = symbols.entries["shndx"][moved["symbol"]] == SHN_ABS
    numbers = [
        int(index)
        for index in np.unique(moved["symbol"][absolute])
        if not _ADDRESSES_LINKERS_MADE_ABSOLUTE.fullmatch(symbols[int(index)].name)
    ]
    return tuple(np.sort(moved["va"][~np.isin(moved["symbol"], numbers)]).tolist())


def emit_list(addresses: Sequence[int]) -> bytes:
    """The list as it stands after the ELF file in a payload (little-endian u32)."""
    return np.array([0, *sorted(addresses)], dtype="<u4").tobytes()


def parse_list(blob: bytes, file: str = "<bytes>") -> tuple[int, ...]:
    """The addresses in `blob`, the inverse of `emit_list`; more 0 words may precede them.

    Raises MalformedImage unless it is a 0 word followed by rising addresses.
    """
    if len(blob) % 4 or not len(blob):
        raise MalformedImage(
            f"a relocation list of {len(blob)} bytes is not made of words",
            file=file,
            place="relocation list",
        )
    words = np.frombuffer(blob, dtype="<u4")
    zeros = int(np.argmax(words != 0)) if words.any() else len(words)
    words = words[max(zeros - 1, 0) :]
    if words[0] or (len(words) > 1 and not (words[1:] > words[:-1]).all()):
        raise MalformedImage(
            "the relocation list is not a 0 word and rising addresses",
            file=file,
            place="relocation list",
            hint="only payloads of 32-bit x86 kernels are understood",
        )
    return tuple(words[1:].tolist())
