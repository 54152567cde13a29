# SPDX-License-Identifier: MIT
"""Does a multiboot kernel find what either version of the specification promises it?"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import invoke
from tests.image.test_multiboot import END, first, second
from tests.support.elfbuilder import TEXT, ElfBuilder
from vmipatch.choices import Mode
from vmipatch.emu.loader import Boot, load
from vmipatch.emu.multiboot import INFO_PA, BootModule, entry_pa, header_of
from vmipatch.emu.processor.memory import GuestMemory
from vmipatch.errors import ExitCode, InputNotUnderstood
from vmipatch.files.open import open_kernel
from vmipatch.image.elf import ElfImage
from vmipatch.isa.assemble import assemble

RAM_LEN = 64 << 20
TEXT_VA, TEXT_PA = 0xC0100000, 0x100000
MODULES = (BootModule(b"one", "one.img root=1"), BootModule(b"\xaa" * 5000))


def kernel(code: bytes, *, entry: int = TEXT_VA) -> ElfImage:
    builder = ElfBuilder(entry=entry)
    builder.section(".text", TEXT_VA, code, TEXT, align=4096)
    return builder.image()


def loaded(image: ElfImage) -> GuestMemory:
    memory = GuestMemory(RAM_LEN)
    load(memory, Boot(image, "root=disk", b"initial", modules=MODULES))
    return memory


def text(memory: GuestMemory, pa: int) -> str:
    return memory.read(pa, 64).partition(b"\0")[0].decode()


def tags(memory: GuestMemory) -> Iterator[tuple[int, bytes]]:
    total = memory.read_u32(INFO_PA)
    at = 8
    while at < total:
        kind, size = memory.read_u32(INFO_PA + at), memory.read_u32(INFO_PA + at + 4)
        yield kind, memory.read(INFO_PA + at + 8, size - 8)
        at += -(-size // 8) * 8


def test_information_of_version_1_names_memory_line_and_modules() -> None:
    memory = loaded(kernel(first() + b"\xf4"))
    words = struct.unpack("<17I", memory.read(INFO_PA, 68))
    assert words[0] & 0x24D == 0x24D
    assert words[0] & 0x30 == 0, "no symbols"
    assert words[1:3] == (639, (RAM_LEN >> 10) - 1024)
    assert text(memory, words[4]) == "root=disk"
    assert words[5] == 3
    rows = [struct.unpack("<4I", memory.read(words[6] + 16 * i, 16)) for i in range(3)]
    contents = [memory.read(start, end - start) for start, end, _, _ in rows]
    assert contents == [b"initial", *(module.data for module in MODULES)]
    assert [text(memory, row[2]) for row in rows] == ["initrd", "one.img root=1", ""]
    assert all(row[0] % 4096 == 0 and row[0] > TEXT_PA for row in rows)
    entries, at = [], words[12]
    while at < words[12] + words[11]:
        size, pa, length, kind = struct.unpack("<IQQI", memory.read(at, 24))
        entries.append((pa, length, kind))
        at += size + 4
    assert entries[0] == (0, 0x9FC00, 1) and entries[-1] == (1 << 20, RAM_LEN - (1 << 20), 1)
    assert text(memory, words[16]) == "vmipatch"


def test_information_of_version_2_has_the_same_in_tags() -> None:
    memory = loaded(kernel(bytes(8) + second(END) + b"\xf4"))
    found = list(tags(memory))
    kinds = [kind for kind, _ in found]
    assert kinds == [1, 2, 3, 3, 3, 4, 5, 6, 0]
    assert found[0][1] == b"root=disk\0"
    start, end = struct.unpack("<2I", found[3][1][:8])
    assert (memory.read(start, end - start), found[3][1][8:]) == (b"one", b"one.img root=1\0")
    assert struct.unpack("<2I", dict(found)[4]) == (639, (RAM_LEN >> 10) - 1024)
    assert struct.unpack("<2I", dict(found)[6][:8]) == (24, 0)


def test_bios_data_area_names_the_serial_port_and_the_display() -> None:
    memory = loaded(kernel(first() + b"\xf4"))
    assert memory.read_u16(0x400) == 0x3F8
    assert memory.read_u16(0x413) == 639
    assert memory.read_u16(0x463) == 0x3D4


def test_entry_is_a_physical_address() -> None:
    for image, expected in (
        (kernel(first() + b"\xf4", entry=TEXT_VA + 12), TEXT_PA + 12),
        (kernel(first() + b"\xf4", entry=TEXT_PA + 12), TEXT_PA + 12),
    ):
        header = header_of(image)
        assert header is not None and entry_pa(image, header) == expected


def test_addresses_of_the_header_go_before_those_of_the_segments() -> None:
    rest = struct.pack("<5I", 0x200000, 0x200000, 0, 0x210000, 0x200020)
    image = kernel(first(1 << 16, rest) + b"\xf4")
    memory = loaded(image)
    assert memory.read(0x200020, 1) == b"\xf4"
    header = header_of(image)
    assert header is not None and entry_pa(image, header) == 0x200020


def test_what_does_not_fit_is_refused() -> None:
    image = kernel(first() + b"\xf4")
    for boot in (
        Boot(image, modules=(BootModule(bytes(RAM_LEN)),)),
        Boot(image, "x" * 0x80000),
    ):
        with pytest.raises(InputNotUnderstood):
            load(GuestMemory(RAM_LEN), boot)


SAYS = """
    mov edx, 0x3f8
    out dx, al
    mov al, byte ptr [ebx + 8]
    mov al, 0xfe
    out 0x64, al
stop:
    hlt
    jmp stop
"""
"""Sends the lowest byte of EAX, looks at the information, and resets by the keyboard controller."""


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP], ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("header", "magic"), [(first(), "\x02"), (second(END), "�")], ids=["1", "2"]
)
def test_kernel_runs_and_is_told_by_which_version_it_was_loaded(
    header: bytes, magic: str, mode: Mode
) -> None:
    code = header + assemble(SAYS, TEXT_PA + len(header)).code
    image = kernel(code, entry=TEXT_VA + len(header))
    run = open_kernel(image.data).run(mode)
    assert run.result.ending.by_guest, run.result.ending
    assert run.console == magic


RETURNS = """
    .byte 0x0f, 0x01, 0x15              # lgdt
    .long gdtr
    mov esp, 0x180000
    pushfd
    .byte 0x0e                          # push cs
    .byte 0x68                          # push returned
    .long returned
    iretd
returned:
    mov edx, 0x3f8
    mov al, 0x6b
    out dx, al
    mov al, 0xfe
    out 0x64, al
stop:
    hlt
    jmp stop
gdtr:
    .word 23
    .long gdt
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
"""
"""A GDT of its own, in which code and data are first and second, and a return to the CS it has."""


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP], ids=lambda mode: mode.value)
def test_kernel_that_never_loads_cs_finds_its_code_segment_by_the_selector(mode: Mode) -> None:
    header = first()
    code = header + assemble(RETURNS, TEXT_PA + len(header)).code
    image = kernel(code, entry=TEXT_VA + len(header))
    assert open_kernel(image.data).run(mode).console == "k"


def test_modules_of_a_kernel_that_is_not_multiboot_are_refused(guest: Path) -> None:
    done = invoke("run", guest, "--native", "--module", f"{guest} first")
    assert done.returncode == ExitCode.USAGE
    assert "--module" in done.stderr
