# SPDX-License-Identifier: MIT
"""How is the conformance guest made of its sources? A multiboot image, also as an ELF file.

Besides assembly the sources have, one a line:

    VMI(NAME)                   a patchable site of that call, and a check of what it spoilt
    VMI_RAW(NAME)               the site alone, for calls that do not come back
    SITE(NAME, label)           as VMI_RAW, the label at the site
    CHECK("text", got, wanted)  count, and say so if they differ
    SAY("text %x %s", ...)      a line on the serial port
    ONLY_IF_SERVED(NAME, label) go on at the label if the ROM declines the call
    PUSH(name)                  push a constant
    EXCEPTION_STUBS             one entry of 16 bytes for each exception
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterator
from importlib import resources

from vmipatch.isa.assemble import assemble
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.table import ROW_OF, Clobbers

LOAD_PA = 0x100000
IMAGE_LEN = 0x10000
SOURCES = (
    "guest.S", "support.S", "checks.S", "checks_memory.S", "checks_returns.S", "checks_devices.S",
)  # fmt: skip
_STATEMENT = re.compile(r"^\s*([A-Z_]+)\((.*)\)\s*(?:#.*)?$")
_STRING = re.compile(r'^\s*("(?:[^"]*)")\s*,?\s*(.*)$')
_TSS, _LDT = 0x208000, 0x209000
_REGISTERS = ("eax", "ecx", "edx", "ebx", "", "ebp", "esi", "edi")
_FLAGS_AT = 4
_FLAGS = 0x8D5
_SPOILT = {Clobbers.STANDARD: 0b10111, Clobbers.FLAGS: 1 << _FLAGS_AT, Clobbers.NOTHING: 0}
_WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)

SYMBOLS = {
    "PAGE_OFFSET": 0xC0000000, "IMAGE_END": LOAD_PA + IMAGE_LEN, "STACK_TOP": 0x180000,
    "OTHER_STACK": 0x188000, "USER_STACK": 0x190000, "KERNEL_CS": 0x60, "KERNEL_DS": 0x68,
    "USER_CS": 0x73, "USER_DS": 0x7B, "TSS_SELECTOR": 0x80, "LDT_SELECTOR": 0x88,
    "DIRECTORY": 0x201000, "DIRECTORY_2": 0x202000, "PAGE_TABLE": 0x203000, "IDT": 0x204000,
    "FRAME_A": 0x205000, "FRAME_B": 0x206000, "FIX_TABLE": 0x20A000, "TSS": _TSS, "LDT": _LDT,
    "WINDOW": 0x800000, "ANSWERS": 0x20B000, "ANSWER_COUNT": max(VmiCall) + 8,
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
"""What stands at a site before it is patched; nothing where nothing is to be done natively."""


class End(enum.IntEnum):
    """What the guest does when all is checked."""

    SOFT_REBOOT = 0
    HARD_REBOOT = 1
    SHUTDOWN = 2


def build_image(end: End = End.HARD_REBOOT) -> bytes:
    """The guest as a multiboot kernel, to be loaded at LOAD_PA."""
    symbols = _symbols() | {"REBOOT_KIND": int(end)}
    code = assemble(_source(), LOAD_PA, symbols=symbols, name="conformance guest").code
    assert len(code) <= IMAGE_LEN, "the guest fits its image"
    return code.ljust(IMAGE_LEN, b"\0")


def build_elf(end: End = End.HARD_REBOOT) -> bytes:
    """The same as an ELF file, entered behind its multiboot header."""
    image = build_image(end)
    entry = int.from_bytes(image[28:32], "little")
    ident = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<2HI3LI6H", 2, 3, 1, entry, 52, 0, 0, 52, 32, 1, 40, 0, 0)
    load = struct.pack("<8I", 1, 0x1000, LOAD_PA, LOAD_PA, len(image), len(image), 7, 0x1000)
    return (header + load).ljust(0x1000, b"\0") + image


def _symbols() -> dict[str, int]:
    tss_low, tss_high = _descriptor(_TSS, 0x67, 0x89)
    ldt_low, ldt_high = _descriptor(_LDT, 0xF, 0x82)
    return SYMBOLS | {
        "TSS_LOW": tss_low, "TSS_HIGH": tss_high,
        "TSS_DESCRIPTOR": tss_high << 32 | tss_low, "LDT_DESCRIPTOR": ldt_high << 32 | ldt_low,
    }  # fmt: skip


def _descriptor(base: int, limit: int, kind: int) -> tuple[int, int]:
    return limit | (base & 0xFFFF) << 16, base >> 16 & 0xFF | kind << 8 | base & 0xFF000000


def _source() -> str:
    writer = _Writer()
    lines: list[str] = []
    for name in SOURCES:
        text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        for line in text.splitlines():
            lines += writer.expand(line)
    return "\n".join([*lines, *writer.tables()])


class _Writer:
    """Expands statements, and collects sites and texts."""

    def __init__(self) -> None:
        self.sites: list[tuple[str, VmiCall]] = []
        self.texts: dict[str, str] = {}

    def expand(self, line: str) -> Iterator[str]:
        match = _STATEMENT.match(line)
        if line.strip() == "EXCEPTION_STUBS":
            yield from _exception_stubs()
        elif match is None:
            yield line
        elif match[1] == "PUSH":
            yield from _push(match[2])
        else:
            yield from getattr(self, f"_{match[1].lower()}")(match[2])

    def tables(self) -> Iterator[str]:
        """Sites as u32 address, u32 call, u32 length; then the texts."""
        yield ".p2align 2"
        yield "sites:"
        for label, call in self.sites:
            yield f"    .long {label}, {call:d}, {label}_end - {label}"
        yield "sites_end:"
        for text, label in self.texts.items():
            yield f"{label}:"
            yield f"    .asciz {text}"

    def _place(self, call: VmiCall, label: str = "") -> Iterator[str]:
        label = label or f"site_{len(self.sites)}"
        self.sites.append((label, call))
        yield f"{label}:"
        yield from (f"    {part.strip()}" for part in NATIVE.get(call, "nop").split(";"))
        yield "    .byte 0x90, 0x90, 0x90, 0x90"
        yield f"{label}_end:"

    def _vmi_raw(self, name: str) -> Iterator[str]:
        yield from self._place(VmiCall[name])

    def _site(self, arguments: str) -> Iterator[str]:
        name, label = (part.strip() for part in arguments.split(","))
        yield from self._place(VmiCall[name], label)

    def _vmi(self, name: str) -> Iterator[str]:
        call = VmiCall[name]
        row = ROW_OF[call]
        results = sum(1 << _REGISTERS.index(register) for register in row.results)
        yield from _save("before")
        yield f"    mov dword ptr [before + {4 * _FLAGS_AT}], {_FLAGS:#x}"
        yield "    pushfd"
        yield f"    or dword ptr [esp], {_FLAGS:#x}"
        yield "    popfd"
        yield from self._place(call)
        yield "    pushfd"
        yield f"    pop dword ptr [after + {4 * _FLAGS_AT}]"
        yield from _save("after")
        yield f"    and dword ptr [after + {4 * _FLAGS_AT}], {_FLAGS:#x}"
        yield f"    mov dword ptr [result_mask], {results:#x}"
        yield f"    mov dword ptr [spoilt_mask], {_SPOILT[row.clobbers]:#x}"
        label = self._text(f'"{row.name}"')
        yield f"    mov dword ptr [call_name], {label}"
        yield "    call compare_registers"

    def _only_if_served(self, arguments: str) -> Iterator[str]:
        name, label = (part.strip() for part in arguments.split(","))
        yield f"    mov eax, {VmiCall[name]:d}"
        yield "    call relocation"
        yield "    cmp edx, 1"
        yield f"    jne {label}"

    def _check(self, arguments: str) -> Iterator[str]:
        text, rest = self._split(arguments)
        got, wanted = (part.strip() for part in rest.rsplit(",", 1))
        for operand in (text, wanted, got):
            yield from _push(operand)
        yield "    call check"
        yield "    lea esp, [esp + 12]"

    def _say(self, arguments: str) -> Iterator[str]:
        text, rest = self._split(arguments)
        values = [part.strip() for part in rest.split(",")] if rest else []
        for operand in (*reversed(values), text):
            yield from _push(operand)
        yield "    call say"
        yield f"    lea esp, [esp + {4 * len(values) + 4}]"

    def _split(self, arguments: str) -> tuple[str, str]:
        match = _STRING.match(arguments)
        assert match is not None, arguments
        return self._text(match[1]), match[2]

    def _text(self, text: str) -> str:
        return self.texts.setdefault(text, f"text_{len(self.texts)}")


def _push(operand: str) -> Iterator[str]:
    """PUSH; of a name, the assembler would make one of 16 bits."""
    if operand in _REGISTERS or operand.startswith("dword"):
        yield f"    push {operand}"
    else:
        yield "    .byte 0x68"
        yield f"    .long {operand}"


def _save(place: str) -> Iterator[str]:
    for index, register in enumerate(_REGISTERS):
        if register:
            yield f"    mov dword ptr [{place} + {4 * index}], {register}"


def _exception_stubs() -> Iterator[str]:
    for vector in range(32):
        yield ".p2align 4"
        if vector not in _WITH_ERROR:
            yield "    push 0"
        yield f"    push {vector}"
        yield "    jmp exception"
