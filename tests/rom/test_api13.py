# SPDX-License-Identifier: MIT
"""Is a ROM of API 13 what the patches of March 2006 look for, in its place and as a copy?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from unicorn import x86_const as x86

from tests.rom.machine import (
    BASE,
    BUFFER_VA,
    FLAGS,
    GDT_VA,
    GPRS,
    IF,
    SITE_VA,
    STACK_VA,
    RomMachine,
)
from tests.rom.scene import ARGUMENTS, PC_FLAVORS, Ports, prepared
from tests.rom.test_image import string, u16, u32
from vmipatch.choices import Flavor
from vmipatch.cli.console import Console
from vmipatch.cli.rom import rom_command
from vmipatch.isa.decode import text_of
from vmipatch.rom import Rom, build_rom_13
from vmipatch.rom.entries import RelocationType, relocation_type, served_calls
from vmipatch.vmi.api13 import DIFFERENT, ROWS_13, SAME, Call13
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.marks import Marks, parse_marks
from vmipatch.vmi.shared import ROM_PA, Hypercall, Shared, Time

C = Call13
flavors = pytest.mark.parametrize("flavor", Flavor)
COPY_VA = BASE + 0x20000
"""Where Linux keeps its window in the kernel's text; any page will do."""
COPY_OFF = COPY_VA - BASE - ROM_PA
LINUX_ROOM = 16 << 10
ENTRY = (0x89ABC067, 0x12)
NO_RETURN = {C.IRET, C.SYSEXIT, C.SHUTDOWN, C.REBOOT}
ROW = {row.call: row for row in ROWS_13}
MORE_ARGUMENTS = {
    **{
        call: {"eax": BUFFER_VA}
        for call in (
            C.GET_PXE, C.GET_PXE_LONG, C.DEACTIVATE_PXE_LONG_ATOMIC, C.SET_PXE_BY_ADDRESS,
            C.SWAP_PXE, C.APIC_READ, C.APIC_WRITE,
        )
    },
    C.SET_PXE_LONG_UNFLAGGED: {"ecx": BUFFER_VA},
    C.SWAP_PXE_LONG_ATOMIC: {"ecx": BUFFER_VA},
    **{call: {"eax": BUFFER_VA, "edx": 6} for call in C if call.name.startswith("TEST_AND_")},
    C.WRMSR: {"ecx": 0x174, "eax": 0x60, "edx": 0},
    C.RDMSR: {"ecx": 0x174},
}  # fmt: skip
FAULTS = {C.RDPMC}
"""Unicorn refuses it."""


@cache
def build_once(flavor: Flavor) -> Rom:
    """A ROM of API 13 for the machine of these tests."""
    made = build_rom_13(flavor)
    return Rom(flavor, made.data, {}, 4 * 32, 85 * 32, made.marks)


@cache
def machine(flavor: Flavor) -> tuple[RomMachine, Ports]:
    """One machine a flavour, with the ROM at its place and its copy."""
    made = RomMachine(build_once(flavor))
    made.uc.mem_write(COPY_VA, bytes(made.uc.mem_read(made.rom_va, len(made.rom.data))))
    return made, Ports(made.uc)


@dataclass(frozen=True)
class Outcome:
    """Everything that a call may change."""

    registers: dict[str, int]
    flags: int
    esp: int
    memory: bytes
    pages: tuple[int, ...]
    interrupts: list[tuple[int, dict[str, int], tuple[int, int]]]
    writes: list[tuple[int, int, int]]


def outcome(
    pc: RomMachine, ports: Ports, entry_off: int, state: dict[str, int], flags: int
) -> Outcome:
    """Of one call from a state that is the same each time."""
    ports.writes.clear()
    pc.uc.reg_write(x86.UC_X86_REG_GDTR, (0, GDT_VA, 0x3F, 0))
    pc.uc.mem_write(GDT_VA + 0x3D, b"\x89")  # the task is available again
    pc.uc.mem_write(BUFFER_VA - 16, bytes(range(64)))
    pc.put(BUFFER_VA, *ENTRY)
    pc.share(Shared.VIRTUAL_IF, 0, 1, *[0x12345678] * 14)
    pc.share(Time.LEFT, 5, 0, 100, 0, 7, 0, 3, 9, 11, 0)
    pc.set(dict.fromkeys(GPRS, 0) | state)
    pc["cr0"], pc["cr2"], pc["cr4"] = 0x11, 0xABC000, 0
    pc["eflags"] = flags | 2
    pc.call(entry_off)
    return Outcome(
        pc.registers(),
        pc["eflags"],
        pc["esp"],
        bytes(pc.uc.mem_read(BUFFER_VA - 16, 64)),
        tuple(pc.shared(cell) for cell in Shared),
        [(met.vector, met.registers, met.stack) for met in pc.interrupts],
        list(ports.writes),
    )


def states(call: Call13) -> list[tuple[dict[str, int], int]]:
    """Two that differ in each bit of each register that is free, and in each flag."""
    arguments = MORE_ARGUMENTS.get(call, {})
    if not arguments and call in SAME:
        arguments = ARGUMENTS.get(SAME[call], {})
    return [
        (dict.fromkeys(GPRS, fill) | arguments, flags)
        for fill, flags in ((0x55555554, FLAGS & ~0x400 | IF), (0xAAAAAAAA, IF))
    ]


@flavors
def test_kernel_finds_header_of_api_13_0(flavor: Flavor) -> None:
    data = build_rom_13(flavor).data
    assert data[:2] == b"\x55\xaa"
    assert data[2] * 512 == len(data) <= LINUX_ROOM
    assert sum(data) % 256 == 0
    assert data[0x08:0x14] == b"cVmi\x00\x0d\0\0\0\0\0\0"
    pci, pnp = u16(data, 0x18), u16(data, 0x1A)
    assert data[pci : pci + 8] == b"PCIR\xad\x15\x01\x08"
    assert u16(data, pci + 0x10) == data[2]
    assert sum(data[pnp : pnp + 32]) % 256 == 0
    assert string(data, u16(data, pnp + 0x0E)) == "vmipatch"
    assert string(data, u16(data, pnp + 0x10)) == f"VMI ROM of API 13 ({flavor.value})"
    assert string(data, u16(data, 0x16)) == "GPL v2"
    assert max(pci + 0x18, pnp + 0x20) <= 0x80, "in the reserved slots"


@flavors
def test_same_arguments_give_same_bytes(flavor: Flavor) -> None:
    assert build_rom_13(flavor).data == build_rom_13(flavor).data


@pytest.mark.parametrize("flavor", PC_FLAVORS)
def test_rom_for_any_pc_has_no_absolute_word(flavor: Flavor) -> None:
    assert parse_marks(build_rom_13(flavor).data) == Marks()


@flavors
@pytest.mark.parametrize("call", [c for c in Call13 if c not in NO_RETURN | FAULTS | {C.INIT}])
def test_entry_does_the_same_in_rom_and_copy_and_spoils_nothing(
    flavor: Flavor, call: Call13
) -> None:
    """Linux makes annotated calls to the ROM and the others to its copy."""
    pc, ports = machine(flavor)
    for registers, flags in states(call):
        there = outcome(pc, ports, call * 32, registers, flags)
        copied = outcome(pc, ports, COPY_OFF + call * 32, registers, flags)
        assert there == copied or call in {C.RDTSC, C.GET_RELOCATION_INFO}
        keeps = set(GPRS) - set(ROW[call].results)
        assert {name: there.registers[name] for name in keeps} == {
            name: registers[name] for name in keeps
        }
        assert there.flags & FLAGS == flags & FLAGS
        assert there.esp == STACK_VA


def test_copy_of_the_paravirtual_rom_executes_nothing_that_belongs_to_the_rom() -> None:
    """The hypervisor knows the ROM by its place: an audit would blame the kernel for a copy."""
    data = build_rom_13(Flavor.PARAVIRT).data
    jump = b"\x2e\xff\x25"
    for call in (c for c in Call13 if c is not C.INIT):
        slot = data[call * 32 : call * 32 + 32].rstrip(b"\xcc")
        if slot.startswith(jump):
            word = u32(data, call * 32 + len(jump)) - ROM_PA
            assert 88 * 32 <= u32(data, word) - ROM_PA < len(data), call
            continue
        verbs = {part.split()[0] for part in text_of(slot, 0).split("; ")}
        assert verbs <= {
            "mov",
            "movzx",
            "push",
            "pop",
            "ret",
            "int",
            "xchg",
            "pause",
            "jmp",
            "jecxz",
        }


@flavors
def test_calls_that_api_3_has_too_do_what_its_rom_does(flavor: Flavor) -> None:
    pc, ports = machine(flavor)
    compared = 0
    for call, same in SAME.items():
        if call in NO_RETURN | DIFFERENT | {C.RDTSC} or same not in served_calls(flavor):
            continue
        for registers, flags in states(call):
            old, old_ports = prepared(flavor, {})
            expected = outcome(old, old_ports, old.rom.entries[same], registers, flags)
            made = outcome(pc, ports, call * 32, registers, flags)
            if flavor is Flavor.TRACE:
                assert expected.writes.pop(0) == (0xE9, 1, same)
                assert made.writes.pop(0) == (0xE9, 1, call)
            assert made == expected, call
            compared += 1
    assert compared > 90


@flavors
@pytest.mark.parametrize("present", [0, 1 << 6])
def test_calls_of_page_tables_do_what_linux_has_as_stubs(flavor: Flavor, present: int) -> None:
    """stubs.c and stubs-asm.S of the patches, with the order of their arguments."""
    low, high = ENTRY[0] & ~(1 << 6) | present, ENTRY[1]
    pc, _ = machine(flavor)

    def call(number: int, **registers: int) -> tuple[int, int, int, int]:
        """EAX, EDX and the two words of the entry."""
        pc.put(BUFFER_VA, low, high)
        pc.set(dict.fromkeys(GPRS, 0) | registers)
        pc["eflags"] = 2
        pc.call(number * 32)
        return pc["eax"], pc["edx"], pc.word(BUFFER_VA), pc.word(BUFFER_VA + 4)

    assert call(45, eax=BUFFER_VA, edx=0x1111)[2:] == (0x1111, high)
    assert call(46, eax=BUFFER_VA)[0] == low
    assert call(47, eax=BUFFER_VA, edx=0x2222) == (low, 0x2222, 0x2222, high)
    assert call(48, eax=0x3333, edx=0x4444, ecx=BUFFER_VA)[2:] == (0x3333, 0x4444)
    assert call(49, eax=BUFFER_VA) == (low, high, low, high)
    assert call(50, eax=0x5555, edx=0x6666, ecx=BUFFER_VA) == (low, high, 0x5555, 0x6666)
    old_bit = 0xFFFFFFFF if present else 0
    for number in (51, 73):
        assert call(number, eax=BUFFER_VA, edx=6)[0::2] == (old_bit, low | 1 << 6)
    for number in (52, 74):
        assert call(number, eax=BUFFER_VA, edx=6)[0::2] == (old_bit, low & ~(1 << 6))
    assert call(73, eax=BUFFER_VA, edx=63)[2:] == (low, high | 1 << 31)
    assert call(74, eax=BUFFER_VA, edx=33)[2:] == (low, high & ~2)
    assert call(57, eax=0x80)[0] == 0
    assert call(72, eax=BUFFER_VA) == (low, high, 0, 0)
    assert call(86, eax=0x7777, edx=BUFFER_VA, ecx=1)[2:] == (0x7777, high)
    assert call(87, eax=0x8888, edx=0x9999, ecx=BUFFER_VA)[2:] == (0x8888, 0x9999)


@pytest.mark.parametrize("flavor", PC_FLAVORS)
def test_pc_has_no_timer_and_its_apic_where_the_kernel_says(flavor: Flavor) -> None:
    pc, _ = machine(flavor)
    pc.set({"eax": 5, "edx": 5})
    pc.call(79 * 32)
    assert (pc["eax"], pc["edx"]) == (0, 0), "a frequency of 0: there is no timer"
    pc.set({"eax": BUFFER_VA + 0x20, "edx": 0x1234})
    pc.call(76 * 32)
    assert pc.word(BUFFER_VA + 0x20) == 0x1234
    pc.set({"eax": BUFFER_VA + 0x20})
    pc.call(77 * 32)
    assert pc["eax"] == 0x1234


@flavors
def test_io_delay_writes_the_port_that_nothing_listens_to(flavor: Flavor) -> None:
    """In our hypervisor it need not wait, and nothing is done."""
    pc, ports = machine(flavor)
    made = outcome(pc, ports, 78 * 32, {"eax": 0x5A}, IF)
    delay = [write for write in made.writes if write[0] == 0x80]
    assert delay == ([] if flavor is Flavor.PARAVIRT else [(0x80, 1, 0x5A)])


@pytest.mark.parametrize("flavor", PC_FLAVORS)
def test_entries_for_a_pc_that_nothing_can_see_are_their_instruction(flavor: Flavor) -> None:
    data = build_rom_13(flavor).data
    for number, text in (
        (6, "wrmsr"), (7, "rdmsr"), (28, "invd"), (29, "wbinvd"), (32, "rdpmc"), (41, "pause"),
    ):  # fmt: skip
        slot = data[number * 32 : number * 32 + 32].rstrip(b"\xcc")
        assert text_of(slot, 0).endswith(f"{text}; ret"), number


@pytest.mark.parametrize("number", [6, 7, 32])
def test_calls_that_may_fault_reach_the_hypervisor(number: int) -> None:
    """WRMSR, RDMSR, RDPMC: there is no answer NONE, and a fault has to arrive at the call."""
    pc, _ = machine(Flavor.PARAVIRT)
    pc.set({"ecx": 0x174, "ebx": 0xB0B0})
    pc.call(number * 32)
    (met,) = pc.interrupts
    assert met.vector == Hypercall.CALL
    assert met.stack == (0xB0B0, SITE_VA + 5)


@flavors
@pytest.mark.parametrize("rom_pa", range(0xC8000, 0xDC001, 0x800))
def test_rom_answers_wherever_a_bios_puts_it(flavor: Flavor, rom_pa: int) -> None:
    """Each multiple of 2 KiB; the paravirtual one up to VMI_Init, which declines elsewhere."""
    pc = RomMachine(build_once(flavor), rom_pa=rom_pa)
    assert rom_pa + len(pc.rom.data) <= 0xE0000
    pc.call(4 * 32)
    assert pc["eax"] == (0xFFFFFFFF if flavor is Flavor.PARAVIRT else 0)
    if flavor is Flavor.PARAVIRT:
        return
    for number in (0, 3, *range(4, 88), 88, 0xFFFFFFFF):
        pc.set({"eax": number, "ecx": 3})
        pc.call(85 * 32)
        known = 4 <= number < 88
        assert (pc["eax"], pc["edx"]) == ((pc.rom_va + number * 32, 1) if known else (0, 0))
    pc["edx"] = 1
    pc.call(24 * 32)
    assert (pc["eax"], pc["edx"]) == (pc["cr0"], 1)


def test_rewritten_kernel_finds_the_answers_of_api_3_1() -> None:
    """At 0x88, as the header says at 0x70; the entries do what those of that ROM do."""
    pc, ports = machine(Flavor.PARAVIRT)
    assert pc.rom.data[0x70:0x76] == b"VMP3\x01\x03"
    assert pc.rom.data[0x80] == pc.rom.data[0x88] == 0xE9
    old, old_ports = prepared(Flavor.PARAVIRT, {})
    for number in (*range(max(VmiCall) + 3), 0xFFFFFFFF):
        call = next((known for known in VmiCall if known == number), None)
        pc["eax"] = number
        pc.call(0x88)
        kind = RelocationType.NONE if call is None else relocation_type(call, Flavor.PARAVIRT)
        assert pc["edx"] == kind, number
        if call is None or kind is not RelocationType.CALL_REL:
            assert pc["eax"] == 0
            continue
        entry_off = pc["eax"] - pc.rom_va
        assert 88 * 32 <= entry_off < len(pc.rom.data)
        if call.name in {each.name for each in NO_RETURN} | {"RDTSC"}:
            continue
        registers = dict.fromkeys(GPRS, 0x5A5A5A5A) | ARGUMENTS.get(call, {})
        made = outcome(pc, ports, entry_off, registers, IF)
        assert made == outcome(old, old_ports, old.rom.entries[call], registers, IF), call


@pytest.mark.parametrize("flavor", PC_FLAVORS)
def test_rom_for_a_pc_does_not_have_them(flavor: Flavor) -> None:
    assert build_rom_13(flavor).data[0x70:0x80] == bytes(16)


@flavors
def test_command_writes_the_rom_of_api_13(flavor: Flavor, tmp_path: Path) -> None:
    output = tmp_path / "vmi.rom"
    arguments = ["--api", "13", "--flavor", flavor.value, "-o", str(output)]
    result = CliRunner().invoke(rom_command, arguments, obj=Console(0))
    assert result.exit_code == 0, result.output
    assert output.read_bytes() == build_rom_13(flavor).data
    assert "VMI API 13.0" in result.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--flavor", "xen"], "xen-image"),
        (["--flavor", "xen", "--api", "13"], "copy of the ROM"),
        (["--api", "13", "--virtual-top", "0xfc000000"], "when they are built"),
        (["--api", "6"], "not one of"),
    ],
)
def test_rom_that_cannot_be_is_refused_with_the_reason(
    arguments: list[str], reason: str, tmp_path: Path
) -> None:
    output = tmp_path / "vmi.rom"
    result = CliRunner().invoke(rom_command, [*arguments, "-o", str(output)], obj=Console(0))
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())
    assert not output.exists()
