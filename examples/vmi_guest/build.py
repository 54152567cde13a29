# SPDX-License-Identifier: MIT
"""How is the conformance guest made of its sources? A multiboot image, also as an ELF file."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from importlib import resources

from examples.vmi_guest.writer import CheckedRow, Writer
from vmipatch.isa.assemble import assemble
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.table import ROW_OF

LOAD_PA = 0x100000
IMAGE_LEN = 0x10000
SOURCES = (
    "guest.S", "protocol.S", "support.S", "checks.S", "checks_tables.S", "checks_pages.S",
    "checks_returns.S", "checks_devices.S",
)  # fmt: skip
_TSS, _LDT = 0x208000, 0x209000

SYMBOLS = {
    "PAGE_OFFSET": 0xC0000000, "IMAGE_END": LOAD_PA + IMAGE_LEN, "STACK_TOP": 0x180000,
    "OTHER_STACK": 0x188000, "USER_STACK": 0x190000, "KERNEL_CS": 0x60, "KERNEL_DS": 0x68,
    "USER_CS": 0x73, "USER_DS": 0x7B, "TSS_SELECTOR": 0x80, "LDT_SELECTOR": 0x88,
    "DIRECTORY": 0x201000, "DIRECTORY_2": 0x202000, "PAGE_TABLE": 0x203000, "IDT": 0x204000,
    "FRAME_A": 0x205000, "FRAME_B": 0x206000, "FIX_TABLE": 0x20A000, "TSS": _TSS, "LDT": _LDT,
    "WINDOW": 0x800000, "ANSWERS": 0x20B000, "ANSWER_COUNT": max(VmiCall) + 8,
    "AP_STATE": 0x20C000, "AP_STATE_WORDS": 24, "SECOND_STACK": 0x18E000, "API": 3, "APIC": 0,
}  # fmt: skip

NATIVE: dict[VmiCall, str] = {
    VmiCall.CPUID: "cpuid",
    VmiCall.WRMSR: "wrmsr",
    VmiCall.RDMSR: "rdmsr",
    VmiCall.SET_GDT: ".byte 0x0f, 0x01, 0x10",
    VmiCall.SET_LDT: "lldt ax",
    VmiCall.SET_IDT: ".byte 0x0f, 0x01, 0x18",
    VmiCall.SET_TR: "ltr ax",
    VmiCall.GET_GDT: ".byte 0x0f, 0x01, 0x00",
    VmiCall.GET_LDT: "mov eax, 0; sldt ax",
    VmiCall.GET_IDT: ".byte 0x0f, 0x01, 0x08",
    VmiCall.GET_TR: "mov eax, 0; str ax",
    **dict.fromkeys(
        (VmiCall.WRITE_GDT_ENTRY, VmiCall.WRITE_LDT_ENTRY, VmiCall.WRITE_IDT_ENTRY),
        "mov dword ptr [eax + 8*edx], ecx; push ecx; mov ecx, dword ptr [esp + 4];"
        "mov dword ptr [eax + 8*edx + 4], ecx; pop ecx",
    ),
    VmiCall.SET_CR0: "mov cr0, eax",
    VmiCall.SET_CR2: "mov cr2, eax",
    VmiCall.SET_CR3: "mov cr3, eax",
    VmiCall.SET_CR4: "mov cr4, eax",
    VmiCall.GET_CR0: "mov eax, cr0",
    VmiCall.GET_CR2: "mov eax, cr2",
    VmiCall.GET_CR3: "mov eax, cr3",
    VmiCall.GET_CR4: "mov eax, cr4",
    VmiCall.WBINVD: "wbinvd",
    VmiCall.SET_DR: "mov dr2, edx",
    VmiCall.GET_DR: "mov eax, dr2",
    VmiCall.RDPMC: "rdpmc",
    VmiCall.RDTSC: "rdtsc",
    VmiCall.CLTS: "clts",
    VmiCall.ENABLE_INTERRUPTS: "sti",
    VmiCall.DISABLE_INTERRUPTS: "cli",
    VmiCall.GET_INTERRUPT_MASK: "pushfd; mov eax, dword ptr [esp]; and eax, 0x200; popfd",
    VmiCall.SET_INTERRUPT_MASK: "pushfd; and dword ptr [esp], 0xfffffdff; push eax;"
    "and eax, 0x200; or dword ptr [esp + 4], eax; pop eax; popfd",
    VmiCall.IRET: "jmp dword ptr cs:[iret_pointer]",
    VmiCall.SYSEXIT: "jmp dword ptr cs:[sysexit_pointer]",
    VmiCall.HALT: "sti; hlt",
    VmiCall.SHUTDOWN: "cli; hlt",
    VmiCall.REBOOT: "push eax; mov al, 0xfe; out 0x64, al; pop eax",
    VmiCall.SET_PXE: "mov dword ptr [edx], eax",
    VmiCall.SET_PXE_LONG: "mov dword ptr [ecx + 4], edx; mov dword ptr [ecx], eax",
    VmiCall.INVAL_PAGE: "invlpg [eax]",
    VmiCall.FLUSH_TLB: "pushfd; push eax; mov eax, cr4; and al, 0x7f; mov cr4, eax;"
    "or al, 0x80; mov cr4, eax; mov eax, cr3; mov cr3, eax; pop eax; popfd",
    VmiCall.INL: "in eax, dx",
    VmiCall.INB: "in al, dx",
    VmiCall.INW: "in ax, dx",
    VmiCall.INSL: "rep insd",
    VmiCall.INSB: "rep insb",
    VmiCall.INSW: "rep insw",
    VmiCall.OUTL: "out dx, eax",
    VmiCall.OUTB: "out dx, al",
    VmiCall.OUTW: "out dx, ax",
    VmiCall.OUTSL: "rep outsd",
    VmiCall.OUTSB: "rep outsb",
    VmiCall.OUTSW: "rep outsw",
    VmiCall.SET_IOPL_MASK: "pushfd; and dword ptr [esp], 0xffffcfff;or dword ptr [esp], eax; popfd",
    VmiCall.IO_DELAY: "push eax; mov al, 0; out 0x80, al; pop eax",
}
"""The bytes of a site before it is patched; none where nothing is to be done natively."""


class End(enum.IntEnum):
    """How the guest ends when all is checked."""

    SOFT_REBOOT = 0
    HARD_REBOOT = 1
    SHUTDOWN = 2


def build_image(end: End = End.HARD_REBOOT) -> bytes:
    """The guest as a multiboot kernel, to be loaded at LOAD_PA."""
    symbols = symbols_of(end)
    code = assemble(source(_Writer(), SOURCES), LOAD_PA, symbols=symbols, name="conformance guest")
    assert len(code.code) <= IMAGE_LEN, "the guest fits its image"
    return code.code.ljust(IMAGE_LEN, b"\0")


def build_elf(end: End = End.HARD_REBOOT) -> bytes:
    """The same as an ELF file, entered after its multiboot header."""
    image = build_image(end)
    entry = int.from_bytes(image[28:32], "little")
    ident = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<2HI3LI6H", 2, 3, 1, entry, 52, 0, 0, 52, 32, 1, 40, 0, 0)
    load = struct.pack("<8I", 1, 0x1000, LOAD_PA, LOAD_PA, len(image), len(image), 7, 0x1000)
    return (header + load).ljust(0x1000, b"\0") + image


def symbols_of(end: End) -> dict[str, int]:
    """The names that the sources use."""
    tss_low, tss_high = _descriptor(_TSS, 0x67, 0x89)
    ldt_low, ldt_high = _descriptor(_LDT, 0xF, 0x82)
    return SYMBOLS | {
        "TSS_LOW": tss_low, "TSS_HIGH": tss_high,
        "TSS_DESCRIPTOR": tss_high << 32 | tss_low, "LDT_DESCRIPTOR": ldt_high << 32 | ldt_low,
        "REBOOT_KIND": int(end),
    }  # fmt: skip


def _descriptor(base: int, limit: int, kind: int) -> tuple[int, int]:
    return limit | (base & 0xFFFF) << 16, base >> 16 & 0xFF | kind << 8 | base & 0xFF000000


def source(writer: Writer, names: Iterable[str]) -> str:
    """The assembly of these files and of the writer's tables."""
    lines: list[str] = []
    for name in names:
        text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        for line in text.splitlines():
            lines += writer.expand(line)
    return "\n".join([*lines, *writer.tables()])


class _Writer(Writer):
    """Sites of API 3: native bytes with room for a near call, in a table of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[tuple[str, IntEnum]] = []

    def call(self, name: str) -> VmiCall:
        return VmiCall[name]

    def row(self, call: IntEnum) -> CheckedRow:
        return ROW_OF[VmiCall(call)]

    def place(self, call: IntEnum, label: str = "", pushed: tuple[str, ...] = ()) -> Iterator[str]:
        assert not pushed, "API 3 has no translations"
        label = label or f"site_{len(self.sites)}"
        self.sites.append((label, call))
        yield f"{label}:"
        native = NATIVE.get(VmiCall(call), "nop")
        yield from (f"    {part.strip()}" for part in native.split(";"))
        yield "    .byte 0x90, 0x90, 0x90, 0x90"
        yield f"{label}_end:"

    def only_if_served(self, call: IntEnum, label: str) -> Iterator[str]:
        yield f"    mov eax, {call:d}"
        yield "    call relocation"
        yield "    cmp edx, 1"
        yield f"    jne {label}"

    def tables(self) -> Iterator[str]:
        """Sites as u32 address, u32 call, u32 length; then the texts."""
        yield ".p2align 2"
        yield "sites:"
        for label, call in self.sites:
            yield f"    .long {label}, {call:d}, {label}_end - {label}"
        yield "sites_end:"
        yield from super().tables()
