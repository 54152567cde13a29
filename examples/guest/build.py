# SPDX-License-Identifier: MIT
"""How the guest kernel is made of its sources."""

from __future__ import annotations

from importlib import resources

from examples.guest.elf_writer import write_elf
from examples.guest.link import PAGE_OFFSET, LinkedProgram, link
from examples.guest.source import read_program

LINK_VA = 0xC1000000
"""Where Linux for i386 is linked by default: 16 MiB into lowmem."""

SOURCES = (
    "defs.S",
    "head.S",
    "early.S",
    "main.S",
    "console.S",
    "descriptors.S",
    "traps.S",
    "extable.S",
    "irq.S",
    "pic.S",
    "paging.S",
    "tasks.S",
    "syscalls.S",
    "paravirt.S",
    "sensitive_if.S",
    "sensitive_io.S",
    "sensitive_tables.S",
    "sensitive_segments.S",
    "sensitive_far.S",
    "sensitive_control.S",
    "sensitive_cpu.S",
    "sensitive_int.S",
    "mp_table.S",
    "smp.S",
    "user.S",
    "shutdown.S",
)
"""In link order: definitions first, then as a kernel would have them."""


def sources() -> list[tuple[str, str]]:
    """Name and text of each source, in link order."""
    folder = resources.files("examples.guest")
    return [(name, folder.joinpath(name).read_text(encoding="utf-8")) for name in SOURCES]


def link_guest(link_va: int = LINK_VA) -> LinkedProgram:
    """The guest linked at `link_va`. Raises AssemblyFailed for a mistake in the sources."""
    return link(read_program(sources()), link_va)


def build(link_va: int = LINK_VA) -> bytes:
    """The guest as an ELF32 file, entered at its physical address by Linux's boot protocol."""
    kernel = link_guest(link_va)
    return write_elf(kernel, kernel.address("startup_32") - PAGE_OFFSET)
