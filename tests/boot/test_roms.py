# SPDX-License-Identifier: MIT
"""Does a rewritten kernel run on a VMI ROM in an ordinary PC, and stay native on a ROM it refuses?

SeaBIOS puts the ROM (`-option-rom`) where it has room. The ROM leaves the kernel at CPL 0, so every
call does what the instruction did, and the kernel has to behave as the original does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest

from tests.boot.conftest import COMPARABLE, Machine, Variant, check_finished
from tests.conftest import KernelFinder
from tests.support.console import GuestConsole, compare, new_warnings
from tests.support.gdbstub import Stub, visit
from tests.support.qemu import QemuBoot, QemuEnding
from tests.support.roms import (
    ADDED,
    CODE,
    NATIVE_AT_CPL0,
    Code,
    Patching,
    native_code,
    rom_arguments,
)
from tests.support.sigreturn import CAME_BACK, PROGRAMS
from vmipatch.choices import Flavor
from vmipatch.image.elf import ElfImage
from vmipatch.rom import Rom, build_rom, build_rom_13
from vmipatch.vmi.calls import API_MAJOR, VmiCall

pytestmark = [pytest.mark.qemu, pytest.mark.kernels]

FAULT_AT_CPL0 = frozenset({VmiCall.RDMSR, VmiCall.WRMSR, VmiCall.RDPMC, VmiCall.SET_XCR})
"""Calls that a ROM for a PC refuses: the register may not exist, and the kernel's exception table
looks for the fault at the instruction."""
NO_ROM = "vmi: no ROM found, native"
ROMS_FOR_A_PC = [pytest.param(flavor, id=flavor.value) for flavor in (Flavor.NATIVE, Flavor.TRACE)]


def said(boot: QemuBoot) -> list[str]:
    """The runtime's lines: it speaks before the kernel's first line."""
    lines = (line for line in boot.preface.splitlines() if "vmi: " in line)
    return [line[line.index("vmi: ") :] for line in lines]


@cache
def parsed(vmlinux: Path) -> ElfImage:
    return ElfImage.parse(vmlinux.read_bytes(), vmlinux.name)


RomPlug = Callable[[bytes | None], tuple[str, ...]]
"""From a ROM's bytes (None: no ROM) to QEMU's arguments."""


@pytest.fixture(scope="module")
def plug(tmp_path_factory: pytest.TempPathFactory) -> RomPlug:
    directory = tmp_path_factory.mktemp("roms")
    return lambda rom: () if rom is None else rom_arguments(rom, directory)


@pytest.mark.parametrize(
    ("name", "flavor"),
    [
        ("tiny", Flavor.NATIVE),
        ("tiny", Flavor.TRACE),
        ("smp-pae", Flavor.NATIVE),
        pytest.param("smp-pae", Flavor.TRACE, marks=pytest.mark.slow),
    ],
)
def test_kernel_on_a_rom_behaves_like_the_original(
    pc: Machine, rewritten: KernelFinder, plug: RomPlug, name: str, flavor: Flavor
) -> None:
    original = pc(Variant.ORIGINAL, name, COMPARABLE)
    rom = build_rom(flavor)
    on_rom = pc(Variant.REWRITTEN, name, COMPARABLE, machine=plug(rom.data))
    patching = Patching(parsed(rewritten(name)), rom)
    assert said(on_rom) == patching.said
    left = set(patching.outside_entry_code) - set(patching.patched)
    assert {record.call for record in left} <= NATIVE_AT_CPL0 | FAULT_AT_CPL0
    check_finished(on_rom)
    assert compare(original.console, on_rom.console) == []
    assert new_warnings(original.console, on_rom.console) == []


@pytest.mark.parametrize("pages", ["large", "small"])
def test_entry_code_on_the_page_tables_of_user_space_needs_no_rom(
    pc: Machine, plug: RomPlug, pages: str
) -> None:
    """With small pages user space's page tables map the entry code and nothing of what is added;
    of a large one that holds entry code they map all.
    """
    cpu = ("-cpu", "qemu32,-pse") if pages == "small" else ()
    machine = (*plug(build_rom(Flavor.NATIVE).data), *cpu)
    boot = pc(Variant.REWRITTEN, "smp-pae", f"{COMPARABLE} pti=on", "short.sh", machine=machine)
    assert said(boot)[0].startswith("vmi: paravirtual, ")
    check_finished(boot)
    assert "isolation: enabled" in boot.console


def code_at_start(stub: Stub, image: ElfImage) -> Code:
    """The code in memory when the runtime has done its work."""
    start_va = image.symbols.address("start_kernel")
    assert start_va is not None
    stub.run_to(start_va)
    sections = [image.section_by_name[name] for name in CODE]
    return {section.name: stub.read(section.va, section.size) for section in sections}


def start(pc: Machine, name: str, machine: tuple[str, ...], more: tuple[str, ...]) -> QemuBoot:
    """Boot a rewritten kernel to the end of a script that does little."""
    return pc(Variant.REWRITTEN, name, COMPARABLE, "short.sh", machine=machine + more)


@pytest.mark.parametrize("flavor", ROMS_FOR_A_PC)
@pytest.mark.parametrize("name", ["tiny", "smp-pae"])
def test_every_site_becomes_its_call_and_nothing_else_changes(
    pc: Machine, rewritten: KernelFinder, plug: RomPlug, name: str, flavor: Flavor
) -> None:
    patching = Patching(parsed(rewritten(name)), build_rom(flavor))

    def look(stub: Stub) -> Code:
        memory = code_at_start(stub, patching.image)
        stub.end()
        return memory

    _, memory = visit(partial(start, pc, name, plug(patching.rom.data)), look)
    check_same(patching.image, memory, patched_code(patching, memory))


def patched_code(patching: Patching, memory: Code) -> Code:
    """The code that should be in memory; the ROM's copy, and the runtime's only word that names it,
    have to be looked up there.
    """
    added = memory[ADDED]
    copy_off = added.find(patching.rom.data)
    assert copy_off >= 0, "the runtime brings the ROM along"
    rom_va = patching.image.section_by_name[ADDED].va + copy_off
    code = patching.code(rom_va)
    word = struct.pack("<I", rom_va)
    (cell_off,) = (
        at
        for at in range(len(added) - 3)
        if added[at : at + 4] == word and code[ADDED][at : at + 4] == bytes(4)
    )
    told = code[ADDED][:cell_off] + word + code[ADDED][cell_off + 4 :]
    return {**code, ADDED: told}


def check_same(image: ElfImage, memory: Code, expected: Code) -> None:
    """All code is as it should be."""
    for name, code in expected.items():
        section_va = image.section_by_name[name].va
        pairs = enumerate(zip(memory[name], code, strict=True))
        assert [hex(section_va + at) for at, (here, there) in pairs if here != there] == []


@dataclass(frozen=True, slots=True)
class Refusal:
    """A ROM, or none, on which a kernel has to stay native."""

    build: Callable[[], bytes | None]
    said: str


def with_wrong_checksum() -> bytes:
    """A ROM whose last byte, which makes the sum 0, is another."""
    data = build_rom(Flavor.NATIVE).data
    return data[:-1] + bytes([data[-1] ^ 0x55])


def variation(**arguments: int | str) -> Callable[[], bytes]:
    build: Callable[..., Rom] = build_rom
    return lambda: build(Flavor.NATIVE, **arguments).data


REFUSALS = {
    "no ROM": Refusal(lambda: None, NO_ROM),
    "wrong checksum, so that SeaBIOS drops it": Refusal(with_wrong_checksum, NO_ROM),
    "other major version": Refusal(
        variation(api_major=API_MAJOR - 1), "vmi: ROM has another API version, native"
    ),
    "older minor version": Refusal(
        variation(api_minor=0), "vmi: ROM has another API version, native"
    ),
    "API 13": Refusal(
        lambda: build_rom_13(Flavor.NATIVE).data, "vmi: ROM of API 13 has no fallbacks, native"
    ),
    "licence": Refusal(variation(license="MIT"), "vmi: ROM has no GPL licence, native"),
    "VMI_Init fails": Refusal(variation(fail_init=True), "vmi: ROM failed to initialize, native"),
}


@pytest.mark.parametrize(
    ("name", "why"), [*(("tiny", why) for why in REFUSALS), ("smp-pae", "VMI_Init fails")]
)
def test_kernel_that_refuses_a_rom_is_native_to_the_last_byte(
    pc: Machine, rewritten: KernelFinder, plug: RomPlug, name: str, why: str
) -> None:
    refusal, image = REFUSALS[why], parsed(rewritten(name))
    boot, memory = run_past_start(pc, name, plug(refusal.build()), image)
    assert said(boot) == [refusal.said]
    check_same(image, memory, native_code(image))
    check_behaviour(pc, name, boot)


def test_sites_stay_native_when_every_call_is_refused(
    pc: Machine, rewritten: KernelFinder, plug: RomPlug
) -> None:
    rom = build_rom(Flavor.NATIVE, none=frozenset(VmiCall))
    patching = Patching(parsed(rewritten("tiny")), rom)
    boot, memory = run_past_start(pc, "tiny", plug(rom.data), patching.image)
    assert patching.patched == ()
    assert said(boot) == patching.said
    check_same(patching.image, memory, patched_code(patching, memory))
    check_behaviour(pc, "tiny", boot)


@pytest.mark.parametrize(
    "refused",
    [
        {VmiCall.ENABLE_INTERRUPTS, VmiCall.DISABLE_INTERRUPTS},
        {VmiCall.GET_INTERRUPT_MASK, VmiCall.GET_CR0},
    ],
    ids=["of sites", "of thunks, that of HLT too"],
)
def test_sites_stay_native_whose_calls_are_refused(
    pc: Machine, rewritten: KernelFinder, plug: RomPlug, refused: set[VmiCall]
) -> None:
    """And no others: what else becomes a call works with what is served."""
    rom = build_rom(Flavor.NATIVE, none=frozenset(refused))
    patching = Patching(parsed(rewritten("tiny")), rom)
    boot, memory = run_past_start(pc, "tiny", plug(rom.data), patching.image)
    assert said(boot) == patching.said
    all_patched = Patching(patching.image, build_rom(Flavor.NATIVE)).patched
    left = {record.call for record in set(all_patched) - set(patching.patched)}
    assert refused <= left <= refused | {VmiCall.HALT}
    check_same(patching.image, memory, patched_code(patching, memory))
    check_behaviour(pc, "tiny", boot)


def run_past_start(
    pc: Machine, name: str, machine: tuple[str, ...], image: ElfImage
) -> tuple[QemuBoot, Code]:
    """A whole boot, and the code as it was at start_kernel."""

    def look(stub: Stub) -> Code:
        memory = code_at_start(stub, image)
        stub.let_go()
        return memory

    return visit(partial(start, pc, name, machine), look)


def check_behaviour(pc: Machine, name: str, boot: QemuBoot) -> None:
    """The boot is like the original's."""
    original = pc(Variant.ORIGINAL, name, COMPARABLE, "short.sh")
    check_finished(boot)
    assert compare(original.console, boot.console) == []


def test_return_to_bad_selectors_kills_the_process_and_not_the_kernel(
    pc: Machine, plug: RomPlug
) -> None:
    """The runtime leaves IRET native at CPL 0: the exception table knows the site, not the ROM."""
    programs = tuple((f"returns/{name}", program) for name, program in PROGRAMS.items())
    options = f"{COMPARABLE} norandmaps"  # the kernel logs the program's addresses
    native = plug(build_rom(Flavor.NATIVE).data)
    original = pc(Variant.ORIGINAL, "tiny", options, "returns.sh", programs)
    boot = pc(Variant.REWRITTEN, "tiny", options, "returns.sh", programs, native)
    assert boot.ending is QemuEnding.RESET, f"{boot}"
    assert "paravirtual" in said(boot)[0]
    assert new_warnings(original.console, boot.console) == []
    assert compare(original.console, boot.console) == []
    lines = GuestConsole.parse(boot.console).test
    ends = dict(line.removeprefix("/returns/").rsplit(": ", 1) for line in lines if "/" in line)
    assert ends.pop("own selectors") == str(CAME_BACK)
    assert len(ends) == len(PROGRAMS) - 1
    assert all(int(status) > 128 for status in ends.values()), "killed by a signal"
