# SPDX-License-Identifier: MIT
"""Does a kernel that is not Linux have its annotations where no memory map can give them away, and
is a ROM looked for only where all of its places are mapped?
"""

from __future__ import annotations

import struct
from functools import cache

import pytest

from examples.guest.elf_writer import write_elf
from examples.guest.link import PAGE_OFFSET, link
from examples.guest.source import read_program
from examples.multiboot import build
from examples.multiboot.build import HOMES, KEEP, PLACES, SEGMENTS, START
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.files.open import open_kernel
from vmipatch.image.elf import ElfImage
from vmipatch.restore import restore
from vmipatch.rewrite import RewriteOptions, rewrite
from vmipatch.verify.static import check_static

OPTIONS = RewriteOptions(start=START, keep=(KEEP,))
RECORDS = (".vmi.annotation", ".vmi.annotation.init", ".vmi.thunks", ".vmi.fallback",
           ".vmi.translation")  # fmt: skip


@cache
def original() -> ElfImage:
    return ElfImage.parse(build(), "multiboot")


@cache
def rewritten() -> ElfImage:
    return ElfImage.parse(rewrite(original(), OPTIONS).data, "rewritten")


def test_annotations_lie_between_code_and_what_follows_it() -> None:
    output = rewritten()
    assert len(output.segments) == len(original().segments)
    text, rodata = (output.section_by_name[name] for name in (".vmi.text", ".rodata"))
    at = text.end_va
    for name in RECORDS:
        assert output.section_by_name[name].va == at
        at = output.section_by_name[name].end_va
    assert at <= rodata.va
    end = output.symbols.address("end")
    assert end is not None and end > at, "the kernel gives memory away from there on"
    assert original().symbols.address("etext") == original().section_by_name[".text"].end_va
    etext = output.symbols.address("etext")
    assert etext is not None
    assert -(-etext // 4096) * 4096 >= at, "what maps the pages of code maps the annotations"


def test_proof_holds_and_the_original_comes_back() -> None:
    assert check_static(original(), rewritten(), must_run=True).findings == ()
    assert restore(rewritten()).data == original().data


@pytest.mark.parametrize("name", RECORDS)
def test_proof_finds_annotations_at_another_place(name: str) -> None:
    data, output = bytearray(rewritten().data), rewritten()
    section = output.section_by_name[name]
    shoff = int.from_bytes(data[32:36], "little")
    struct.pack_into("<I", data, shoff + 40 * section.index + 12, section.va + 0x10)
    changed = ElfImage.parse(bytes(data), "changed")
    assert check_static(original(), changed).findings


SMALL = """
SECTION(.text)
GLOBAL(multiboot_header)
    .long 0x1badb002, 0, 0xe4524ffe
FUNC(entry)
    mov eax, {cr4}
    mov cr4, eax
    mov eax, top - 0xc0000000
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
    mov esp, stack_top
    mov eax, kernel_main
    jmp eax
END(entry)
FUNC(kernel_main)
    cli
    mov edx, 0x3f8
    mov al, 0x6b
    out dx, al
    mov al, 0xfe
    out 0x64, al
.Lstop:
    hlt
    jmp .Lstop
END(kernel_main)
SECTION(.data)
OBJECT(top, 4096)
{top}
END(top)
OBJECT(directory, 4096)
{directory}
END(directory)
OBJECT(table, 4096)
{table}
END(table)
SECTION(.bss)
OBJECT(stack, 16)
    .skip 256
END(stack)
GLOBAL(stack_top)
"""
ROMS, PAE, PSE = range(0xC0, 0xE0), 0x20, 0x10


def words(*values: str | int) -> str:
    return "\n".join(f"    .long {value}" for value in values)


def small(*, pae: bool, large: bool, missing: frozenset[int] = frozenset()) -> ElfImage:
    """The first MiB and the kernel at 0 and at 3 GiB, by pages of 4 KiB without those that are
    `missing`, or by large ones; the kernel does nothing but cli, and say so.
    """
    pages = [0 if page in missing else page << 12 | 3 for page in range(512)]
    point = "table - 0xc0000000 + 3"
    first: str | int = 0x83 if large else point
    if pae:
        top = words(*("directory - 0xc0000000 + 1", 0) * 4)
        directory = words(first, 0)
        table = words(*(word for entry in pages for word in (entry, 0)))
    else:
        top = words(first, *[0] * 767, first, *[0] * 255)
        directory, table = words(0), words(*pages, *[0] * 512)
    source = SMALL.format(cr4=PAE if pae else PSE, top=top, directory=directory, table=table)
    kernel = link(read_program([("small.S", source)], HOMES), 0xC0100000, PLACES)
    data = write_elf(kernel, kernel.address("entry") - PAGE_OFFSET, SEGMENTS)
    return ElfImage.parse(data, "small")


@pytest.mark.parametrize("pae", [False, True], ids=["", "PAE"])
@pytest.mark.parametrize(
    ("large", "missing", "finds"),
    [(True, (), True), (False, (), True), (False, ROMS, False), (False, [0xDF], False)],
    ids=["large", "all", "none", "not the last"],
)
def test_rom_is_looked_for_only_where_all_its_places_are_mapped(
    pae: bool, large: bool, missing: range | list[int], finds: bool
) -> None:
    image = small(pae=pae, large=large, missing=frozenset(missing))
    output = rewrite(image, RewriteOptions(start="kernel_main")).data
    assert check_static(image, ElfImage.parse(output), must_run=True).findings == ()
    options = MachineOptions(limit_ns=1_000_000_000)
    run = open_kernel(output).run(Mode.PARAVIRT, options=options)
    assert (run.console, run.result.ending) == ("k", Ending.RESET)
    assert (ExitKind.HYPERCALL_INIT in run.result.statistics.traps) == finds
