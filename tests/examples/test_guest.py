# SPDX-License-Identifier: MIT
"""Is the guest kernel a complete kernel file, and does it run every sensitive instruction?"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from examples.guest import build
from examples.guest.build import LINK_VA
from tests.support.absent import program
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, R_386_PC32, Relocations
from vmipatch.image.types import Section
from vmipatch.image.wrap import wrap
from vmipatch.isa.classify import classify
from vmipatch.isa.decode import InstructionStream, decode
from vmipatch.isa.forms import FORMS
from vmipatch.rewrite import RewriteOptions, rewrite
from vmipatch.rom import build_rom

MOVE_LEN = 0x200000
SECOND_SAID = [
    "processors: sum under a lock 7d0",
    "processors: old code executed 0 times",
    "processors: old page seen 0 times",
    "processors: interrupts came: yes",
]
"""Each of two processors adds 1000 to the sum; the rest is done fifty times."""

NEWER_KINDS = frozenset(
    ("wbnoinvd", "enclv", "pconfig", "wrmsrns", "getsec", "setssbsy", "clrssbsy", "wruss", "hreset",
     "loadiwkey", "enqcmds", "tpause", "umwait", "tdcall", "rdpru", "invlpgb", "tlbsync",
     "pvalidate", "vmfunc", "wrss", "enqcmd")
)  # fmt: skip
NOT_IN_THE_KERNEL = {
    "sysenter": "ring 3 executes it: it is in the user's program in .rodata",
    "syscall": "not in 32-bit kernels, and nothing in ring 3 uses it",
    "int1": "reserved for debuggers of the hardware",
    "xsaves m": "no emulated 32-bit CPU model has it",
    "xrstors m": "no emulated 32-bit CPU model has it",
    "vmcall": "asks a hypervisor that does not exist here",
    "vmmcall": "asks a hypervisor that does not exist here",
    "vmlaunch": "makes a hypervisor",
    "vmresume": "makes a hypervisor",
    "vmxoff": "makes a hypervisor",
    "vmrun": "makes a hypervisor",
    "vmload": "makes a hypervisor",
    "vmsave": "makes a hypervisor",
    "stgi": "makes a hypervisor",
    "clgi": "makes a hypervisor",
    "skinit": "makes a hypervisor",
    "invlpga": "makes a hypervisor",
    "vmptrld m, vmclear m, vmxon m": "makes a hypervisor",
    "vmptrst m": "makes a hypervisor",
    "vmread r/m32, r32": "makes a hypervisor",
    "vmwrite r32, r/m32": "makes a hypervisor",
    "invept r32, m128": "makes a hypervisor",
    "invvpid r32, m128": "makes a hypervisor",
    "encls": "SGX",
    **dict.fromkeys(
        (form.name for form in FORMS if form.kind in NEWER_KINDS), "no emulated CPU model has it"
    ),
}
"""Forms without an example, and why."""


@cache
def guest(link_va: int = LINK_VA) -> ElfImage:
    return ElfImage.parse(build(link_va), "guest")


def streams() -> Iterator[InstructionStream]:
    for section in guest().executable_sections:
        yield decode(guest().section_bytes(section), section.va)


def section(name: str) -> Section:
    return guest().section_by_name[name]


def test_building_twice_gives_the_same_bytes() -> None:
    assert build() == guest().data


def test_every_byte_of_code_decodes() -> None:
    assert not any(stream.undecodable.any() for stream in streams())


def test_no_instruction_has_an_operand_size_the_assembler_chose_wrongly() -> None:
    stack_and_tables = {"0e", "16", "1e", "06", "17", "1f", "07", "6a", "68", "cf", "9a", "ea"}
    codes = [stream.bytes_at(i) for stream in streams() for i in range(len(stream))]
    narrow = [code.hex() for code in codes if code[0] == 0x66]
    assert not [code for code in narrow if code[2:4] in stack_and_tables or code[2:6] == "0f01"]


def test_every_sensitive_form_is_there() -> None:
    codes = (stream.bytes_at(i) for stream in streams() for i in range(len(stream)))
    found = {form.name for code in codes if (form := classify(code)) is not None}
    assert {form.name for form in FORMS} - found == set(NOT_IN_THE_KERNEL)
    assert b"\x0f\x34" in guest().section_bytes(section(".rodata"))


def test_short_branches_of_every_kind_are_there() -> None:
    first = {stream.bytes_at(i)[0] for stream in streams() for i in range(len(stream))}
    assert {0xE2, 0xE3, 0xEB} <= first
    assert first & set(range(0x70, 0x80))


def test_the_relocation_list_moves_the_kernel() -> None:
    moved = bytearray(guest().data)
    for entry in Relocations.of(guest()).entries:
        if int(entry["kind"]) == R_386_32:
            off = guest().offset_of(int(entry["va"]))
            value = (int(entry["value"]) + MOVE_LEN) & 0xFFFFFFFF
            struct.pack_into("<I", moved, off, value)
    other = guest(LINK_VA + MOVE_LEN)
    for here in guest().allocated_sections:
        there = other.section_by_name[here.name]
        assert there.va == here.va + MOVE_LEN
        assert bytes(moved[here.off : here.off + len(guest().section_bytes(here))]) == (
            other.section_bytes(there)
        ), here.name


def test_branches_between_sections_have_relocations() -> None:
    known = {int(e["va"]) for e in Relocations.of(guest()).entries if e["kind"] == R_386_PC32}
    crossing = 0
    for stream in streams():
        for width, index, target in zip(
            stream.branch_widths, stream.branches, stream.branch_targets, strict=True
        ):
            if stream.va <= int(target) < stream.end_va:
                continue
            start, length = int(stream.starts[index]), int(stream.lens[index])
            assert width == 4
            assert start + length - 4 in known, guest().symbols.place_of(start)
            crossing += 1
    assert crossing > 20


def test_relocations_agree_with_their_symbols() -> None:
    for entry in Relocations.of(guest()).entries:
        symbol = guest().symbols[int(entry["symbol"])]
        assert 0 < symbol.section < len(guest().sections)
        if entry["kind"] == R_386_PC32:
            target = (int(entry["value"]) + int(entry["va"]) + 4) & 0xFFFFFFFF
            assert guest().section_at(target) == guest().sections[symbol.section]


def test_interrupt_gates_are_addressed_outside_of_their_symbol() -> None:
    stubs = guest().symbols.by_name["irq_entries_start"]
    values = [
        int(entry["value"])
        for entry in Relocations.of(guest()).entries
        if int(entry["symbol"]) == stubs.index
    ]
    assert values == [stubs.va - 0x100]


def test_interrupt_stubs_are_eight_bytes_apart() -> None:
    stubs = guest().symbols.by_name["irq_entries_start"]
    code = guest().read(stubs.va, stubs.size)
    assert stubs.size == 16 * 8
    assert [code[i : i + 2] for i in range(0, stubs.size, 8)] == [
        bytes([0x6A, vector]) for vector in range(0x20, 0x30)
    ]


def test_exception_table_is_sorted_and_leads_from_instruction_to_instruction() -> None:
    start_va = guest().symbols.by_name["__start___ex_table"].va
    stop_va = guest().symbols.by_name["__stop___ex_table"].va
    starts = {int(start) for stream in streams() for start in stream.starts}
    rows = struct.iter_unpack("<iiI", guest().read(start_va, stop_va - start_va))
    insns = []
    for i, (insn, fixup, kind) in enumerate(rows):
        at_va = start_va + 12 * i
        insns.append(at_va + insn)
        assert {at_va + insn, at_va + 4 + fixup} <= starts
        assert kind in (1, 2)
    assert len(insns) > 30
    assert insns == sorted(set(insns))
    assert ".rel__ex_table" not in guest().section_by_name


def test_functions_are_aligned_and_cover_the_code() -> None:
    functions = sorted((s.va, s.size) for s in guest().symbols if s.kind == 2)
    assert len(functions) > 80
    assert all(va % 16 == 0 and size for va, size in functions)
    for (va, size), (next_va, _) in pairwise(functions):
        assert va + size <= next_va
        same_section = guest().section_at(va) == guest().section_at(next_va)
        assert not same_section or next_va - (va + size) < 16


def test_padding_is_made_of_nops_that_an_i386_has() -> None:
    codes = [stream.bytes_at(i) for stream in streams() for i in range(len(stream))]
    assert not any(code.startswith((b"\x0f\x1f", b"\x66\x0f\x1f")) for code in codes)
    assert bytes.fromhex("8db42600000000") in codes


def boot(tmp_path: Path, *arguments: str) -> str:
    """Output of the guest in QEMU (TCG), from its banner on."""
    emulator = program("qemu-system-i386")
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(wrap(guest(), None))
    command = [emulator, "-accel", "tcg", "-nographic", "-no-reboot", "-nic", "none", "-m", "64"]
    done = subprocess.run(
        [*command, *arguments, "-kernel", str(kernel)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=True,
    )
    text = done.stdout.decode("ascii", "replace").replace("\r", "")
    assert "GUEST i386" in text, text
    return text[text.index("GUEST i386") :]


@pytest.mark.qemu
@pytest.mark.parametrize("model", [(), ("-cpu", "pentium3"), ("-cpu", "max")])
def test_guest_boots_to_its_end(tmp_path: Path, model: tuple[str, ...]) -> None:
    lines = boot(tmp_path, *model).splitlines()
    assert lines[-1] == "GUEST done"
    assert not [line for line in lines if "PANIC" in line]


@pytest.mark.qemu
def test_two_boots_print_the_same(tmp_path: Path) -> None:
    assert boot(tmp_path) == boot(tmp_path)


@pytest.mark.qemu
def test_output_does_not_depend_on_the_cpu_model(tmp_path: Path) -> None:
    assert boot(tmp_path, "-cpu", "pentium3") == boot(tmp_path, "-cpu", "max")


@pytest.mark.qemu
def test_second_processor_does_its_work_on_a_pc(tmp_path: Path) -> None:
    lines = boot(tmp_path, "-smp", "2,sockets=2").splitlines()
    assert [line for line in lines if line.startswith("processors:")] == SECOND_SAID
    assert lines[-1] == "GUEST done"
    alone = boot(tmp_path).splitlines()
    assert [line for line in alone if line.startswith("processors:")] == ["processors: one"]


@pytest.mark.parametrize("mode", Mode)
def test_second_processor_does_its_work_in_every_mode(mode: Mode) -> None:
    kernel = guest()
    if mode.has_rom:
        kernel = ElfImage.parse(rewrite(kernel, RewriteOptions()).data, "guest.vmi")
    terminal = Silence()
    options = MachineOptions(limit_ns=20_000_000_000, cpus=2)
    machine = build_machine(MachineSpec(mode, options, build_rom(Flavor.PARAVIRT).data), terminal)
    result = machine.run(Boot(kernel))
    lines = terminal.heard.decode("ascii").replace("\r", "").splitlines()
    assert [line for line in lines if line.startswith("processors:")] == SECOND_SAID
    assert lines[-1] == "GUEST done"
    assert result.ending is Ending.RESET
    assert machine.processors is not None and machine.processors.started == 2
    assert not [finding for finding in machine.privilege.findings() if finding.is_unprivileged]
