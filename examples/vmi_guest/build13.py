# SPDX-License-Identifier: MIT
"""How is the conformance guest for API 13 made? With annotated sites, as Linux of March 2006 was.

A site is the native instructions with padding, its translation elsewhere: pushes, a near call whose
displacement is the number of the call, and what takes the arguments off. A record of 16 bytes says
where both are. Calls of page tables are not annotated: they are made to a window of 16 KiB that
holds stubs, over which the guest copies the ROM.
Source: mach_asm.h and vmi.h of the patches (vmi_annotate, vmi_nop_pad, vmi_wrap_call).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from examples.vmi_guest.build import LOAD_PA, NATIVE, End, source, symbols_of
from examples.vmi_guest.writer import CheckedRow, Writer, push
from vmipatch.isa.assemble import Assembled, assemble
from vmipatch.vmi.api13 import ROWS_13, SAME, SLOT_LEN, Call13

IMAGE_LEN = 0x18000
WINDOW_LEN = 0x4000
SOURCES_13 = (
    "guest.S", "protocol13.S", "support.S", "checks.S", "checks_tables.S", "checks_pages13.S",
    "checks_returns.S", "checks_devices.S",
)  # fmt: skip
_CALL_LEN = 5
_MOST_PREFIXED = 12
_ROW = {row.call: row for row in ROWS_13}
_C = Call13

NATIVE_13: dict[Call13, str] = {
    **{call: NATIVE[same] for call, same in SAME.items() if same in NATIVE},
    **dict.fromkeys((_C.WRITE_GDT_ENTRY, _C.WRITE_LDT_ENTRY), NATIVE[SAME[_C.WRITE_GDT_ENTRY]]),
    _C.IRET: "iretd",
    _C.SYSEXIT: "sti; sysexit",
    _C.PAUSE: ".byte 0xf3, 0x90",
    _C.SET_PXE_BY_ADDRESS: "mov dword ptr [eax], edx",
    _C.GET_PXE: "mov eax, dword ptr [eax]",
    _C.SWAP_PXE: "xchg dword ptr [eax], edx; mov eax, edx",
    _C.SET_PXE_LONG_UNFLAGGED: "mov dword ptr [ecx + 4], edx; mov dword ptr [ecx], eax",
    _C.GET_PXE_LONG: "mov edx, dword ptr [eax + 4]; mov eax, dword ptr [eax]",
    _C.SWAP_PXE_LONG_ATOMIC: "xchg dword ptr [ecx], eax; xchg dword ptr [ecx + 4], edx",
    **{
        call: "lock bts dword ptr [eax], edx; sbb eax, eax"
        for call in (_C.TEST_AND_SET_PXE_BIT, _C.TEST_AND_SET_PXE_LONG_BIT)
    },
    **{
        call: "lock btr dword ptr [eax], edx; sbb eax, eax"
        for call in (_C.TEST_AND_CLEAR_PXE_BIT, _C.TEST_AND_CLEAR_PXE_LONG_BIT)
    },
    _C.FLUSH_DEFERRED_CALLS: "mov eax, 0",
    _C.DEACTIVATE_PXE_LONG_ATOMIC: "push ecx; mov ecx, eax; mov eax, 0;"
    "xchg dword ptr [ecx], eax; mov edx, dword ptr [ecx + 4]; mov dword ptr [ecx + 4], 0; pop ecx",
    _C.APIC_WRITE: "mov dword ptr [eax], edx",
    _C.APIC_READ: "mov eax, dword ptr [eax]",
    _C.GET_CYCLE_FREQUENCY: "mov eax, 0; mov edx, 0",
}
"""Sites and stubs without a ROM; nothing where nothing is to be done natively."""
_PUSHED_NATIVE = "mov dword ptr [eax + 8*edx], ecx; mov dword ptr [eax + 8*edx + 4], esi"
"""Of a descriptor's high word in ESI, which the translation pushes."""


@dataclass(frozen=True)
class Site:
    """One annotation."""

    call: Call13
    label: str
    native_len: int
    pushed: tuple[str, ...]

    @property
    def translation_len(self) -> int:
        """Pushes, call, and LEA of ESP if there were any."""
        return sum(map(_push_len, self.pushed)) + _CALL_LEN + (4 if self.pushed else 0)

    @property
    def padding(self) -> int:
        """Bytes by which the translation is longer; negative if it is shorter."""
        return self.translation_len - self.native_len

    def translation(self) -> Iterator[str]:
        """The translation as bytes; the operand that is pushed last comes first."""
        yield f"translation_of_{self.label}:"
        for operand in reversed(self.pushed):
            yield from _push(operand)
        yield "    .byte 0xe8"
        yield f"    .long {self.call:d}"
        if self.pushed:
            yield f"    .byte 0x8d, 0x64, 0x24, {4 * len(self.pushed)}"

    def record(self) -> Iterator[str]:
        """The 16 bytes of struct vmi_annotation."""
        padded_len = max(self.native_len, self.translation_len)
        yield f"    .long {self.call:d}, {self.label}, translation_of_{self.label}"
        yield f"    .byte {padded_len}, {self.translation_len}, {self.padding & 0xFF}, 0"


class Writer13(Writer):
    """Annotated sites."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[Site] = []

    def call(self, name: str) -> Call13:
        """The call of that name."""
        return Call13[name]

    def row(self, call: IntEnum) -> CheckedRow:
        """Its row in the table."""
        return _ROW[Call13(call)]

    def place(self, call: IntEnum, label: str = "", pushed: tuple[str, ...] = ()) -> Iterator[str]:
        """The native instructions and their padding; translation and record come later."""
        native = NATIVE_13.get(Call13(call), "")
        if pushed and native:
            native = _PUSHED_NATIVE
        site = Site(Call13(call), label or f"site_{len(self.sites)}", _length(native), pushed)
        self.sites.append(site)
        yield f"{site.label}:"
        yield from _lines(native)
        left = site.padding
        while left > 0:
            group = min(left, _MOST_PREFIXED)
            yield f"    .byte {'0x66, ' * (group - 1)}0x90"
            left -= group

    def only_if_served(self, call: IntEnum, label: str) -> Iterator[str]:
        """Every call is; a timer is there if the frequency says so, and with it the hypervisor."""
        yield "    cmp dword ptr [rom], 0"
        yield f"    je {label}"
        yield f"    call window_{Call13.GET_CYCLE_FREQUENCY.name.lower()}"
        yield "    test eax, eax"
        yield f"    jz {label}"

    def tables(self) -> Iterator[str]:
        """Texts, the window, translations, records."""
        yield from super().tables()
        yield ".p2align 12"
        yield "window:"
        yield f"    .fill {SLOT_LEN * min(Call13)}, 1, 0"
        for call in Call13:
            yield f".p2align {SLOT_LEN.bit_length() - 1}"
            yield f"window_{call.name.lower()}:"
            yield from _lines(NATIVE_13.get(call, ""))
            yield "    ret"
        yield ".p2align 12"
        yield f"    .fill {WINDOW_LEN - 0x1000}, 1, 0"
        yield "translation:"
        for site in self.sites:
            yield from site.translation()
        yield "translation_end:"
        yield ".p2align 4"
        yield "annotation:"
        for site in self.sites:
            yield from site.record()
        yield "annotation_end:"


def build_image_13(end: End = End.HARD_REBOOT) -> bytes:
    """The guest as a multiboot kernel, to be loaded at LOAD_PA."""
    return _assembled(end).code.ljust(IMAGE_LEN, b"\0")


def build_elf_13(end: End = End.HARD_REBOOT) -> bytes:
    """The same as an ELF file with the sections that Linux of March 2006 has."""
    made = _assembled(end)
    image, at = made.code.ljust(IMAGE_LEN, b"\0"), made.labels
    file_off = 0x1000
    names = b"\0.text\0.vmi.translation\0.vmi.annotation\0.shstrtab\0"
    rows = [bytes(40)]
    for name, kind, flags, start, end_va in (
        (b".text", 1, 6, LOAD_PA, at["translation"]),
        (b".vmi.translation", 1, 6, at["translation"], at["translation_end"]),
        (b".vmi.annotation", 1, 2, at["annotation"], at["annotation_end"]),
    ):
        rows.append(
            struct.pack(
                "<10I", names.index(b"\0" + name + b"\0") + 1, kind, flags, start,
                file_off + start - LOAD_PA, end_va - start, 0, 0, 16, 0,
            )
        )  # fmt: skip
    names_off = file_off + len(image)
    name_off = names.index(b".shstrtab")
    rows.append(struct.pack("<10I", name_off, 3, 0, 0, names_off, len(names), 0, 0, 1, 0))
    sections_off = names_off + len(names)
    ident = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack(
        "<2HI3LI6H", 2, 3, 1, at["start"], 52, sections_off, 0, 52, 32, 1, 40, len(rows), 4
    )
    load = struct.pack("<8I", 1, file_off, LOAD_PA, LOAD_PA, len(image), len(image), 7, 0x1000)
    return (header + load).ljust(file_off, b"\0") + image + names + b"".join(rows)


def window_13() -> range:
    """The addresses of the window, where the copy of the ROM is."""
    start = _assembled(End.HARD_REBOOT).labels["window"]
    return range(start, start + WINDOW_LEN)


def _assembled(end: End) -> Assembled:
    symbols = symbols_of(end) | {
        "API": 13, "APIC": 0xFEE00000, "IMAGE_END": LOAD_PA + IMAGE_LEN, "WINDOW_LEN": WINDOW_LEN,
        "CALLS_13": max(Call13) + 1,
    }  # fmt: skip
    made = assemble(
        source(Writer13(), SOURCES_13), LOAD_PA, symbols=symbols, name="conformance guest"
    )
    at = made.labels
    assert len(made.code) <= IMAGE_LEN, "the guest fits its image"
    assert at["translation"] - at["window"] == WINDOW_LEN, "the stubs fit a page"
    for call in Call13:
        assert at[f"window_{call.name.lower()}"] == at["window"] + SLOT_LEN * call, call
    return made


def _lines(native: str) -> Iterator[str]:
    yield from (f"    {part.strip()}" for part in native.split(";") if part.strip())


@cache
def _length(native: str) -> int:
    """Bytes of a site's own instructions."""
    return len(assemble("\n".join(_lines(native)) or "", LOAD_PA).code) if native else 0


def _push_len(operand: str) -> int:
    return 1 if operand.isalpha() else 2 if -0x80 <= int(operand, 0) < 0x80 else 5


def _push(operand: str) -> Iterator[str]:
    """PUSH of a register, of a byte or of a word, as the patches' patcher knows them."""
    if operand.isalpha():
        yield f"    push {operand}"
    elif _push_len(operand) == 2:
        yield f"    .byte 0x6a, {int(operand, 0) & 0xFF}"
    else:
        yield from push(operand)
