# SPDX-License-Identifier: MIT
"""How is the multiboot kernel made of its sources and those of the guest?"""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from typing import Final

from examples.guest.elf_writer import write_elf
from examples.guest.link import PAGE_LEN, PAGE_OFFSET, LinkedProgram, LinkedSymbol, Place, link
from examples.guest.source import STT_NOTYPE, read_program

LINK_VA: Final = 0xC0100000
"""1 MiB of physical memory, in the higher half."""
START: Final = "kernel_main"
"""The function before which the runtime of a rewritten kernel runs: `rewrite --start`."""
KEEP: Final = "second_start..second_end"
"""The code that is copied: `rewrite --keep`."""

OF_GUEST: Final = ("console.S", "descriptors.S", "pic.S", "mp_table.S", "shutdown.S")
PLACES: Final = (
    Place(".text", PAGE_LEN, executable=True, bounds=((), ("etext",))),
    Place(".rodata", 32),
    Place(".data", PAGE_LEN, writable=True, bounds=((), ("edata",))),
    Place(".bss", PAGE_LEN, writable=True, has_bytes=False, bounds=((), ("end",))),
)
HOMES: Final = {".init.text": ".text", ".init.data": ".data"}
"""Nothing is given back: the guest's parts lie with the others."""
SEGMENTS: Final = (((".text", ".rodata"), 5), ((".data", ".bss"), 6))


def sources() -> list[tuple[str, str]]:
    """Name and text of each source, in link order: the headers come first."""
    own, guest = (resources.files(f"examples.{name}") for name in ("multiboot", "guest"))
    order = [(guest, "defs.S"), (own, "head.S"), (own, "tasks.S"), (own, "main.S")]
    order += [(guest, name) for name in OF_GUEST]
    return [(name, folder.joinpath(name).read_text(encoding="utf-8")) for folder, name in order]


def link_kernel(link_va: int = LINK_VA) -> LinkedProgram:
    """The kernel linked at `link_va`, `_start` being the physical address of its entry.

    Raises AssemblyFailed for a mistake in the sources.
    """
    kernel = link(read_program(sources(), HOMES), link_va, PLACES)
    entry_pa = kernel.address("entry") - PAGE_OFFSET
    start = LinkedSymbol("_start", entry_pa, 0, STT_NOTYPE, ".text", is_global=True)
    return replace(kernel, symbols=(*kernel.symbols, start))


def build(link_va: int = LINK_VA) -> bytes:
    """The kernel as an ELF file, as `ld --emit-relocs` leaves one."""
    kernel = link_kernel(link_va)
    return write_elf(kernel, kernel.address("_start"), SEGMENTS)
