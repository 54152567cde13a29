# SPDX-License-Identifier: MIT
"""Does a guest that was written from API 13 alone find all of it, natively and paravirtually?"""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from examples.vmi_guest.__main__ import main as write_guest
from examples.vmi_guest.build import LOAD_PA, End
from examples.vmi_guest.build13 import SOURCES_13, build_elf_13, build_image_13, window_13
from tests.examples.test_vmi_guest import OPTIONS, checks_passed, on_pc
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom, build_rom_13
from vmipatch.vmi.api13 import LAST_OF_13_0, Call13

ROM_PAGE = Path(__file__).parents[2] / "docs" / "vmi-rom.md"
UNMET = {Call13.INIT, Call13.INVD}
"""The one is called by another way, the other a PC should never execute."""
NATIVE_CHECKS = 550
PARAVIRTUAL_CHECKS = 1000


def on_hypervisor(
    rom: bytes,
    mode: Mode = Mode.PARAVIRT,
    end: End = End.HARD_REBOOT,
    options: MachineOptions = OPTIONS,
) -> list[str]:
    """Lines of the guest; the machine must have come to its end as the guest wanted."""
    terminal = Silence()
    machine = build_machine(MachineSpec(mode, options, rom), terminal)
    result = machine.run(Boot(ElfImage.parse(build_elf_13(end), "guest")))
    lines = terminal.heard.decode("ascii").splitlines()
    wanted = Ending.HALTED if end is End.SHUTDOWN else Ending.RESET
    assert result.ending is wanted, (result, lines)
    if mode is Mode.AUDIT:
        found = {finding.va for finding in machine.privilege.findings()}
        assert found, "the guest reads its own flags"
        assert found.isdisjoint(window_13()), "what the copy executes is the ROM's"
    return lines


@pytest.mark.parametrize("mode", [Mode.PARAVIRT, Mode.AUDIT])
def test_every_check_passes_on_the_hypervisor(mode: Mode) -> None:
    *said, last = on_hypervisor(build_rom_13(Flavor.PARAVIRT).data, mode)
    assert said == ["version d.0", "ring 1"]
    assert checks_passed(last) > PARAVIRTUAL_CHECKS
    assert last in ROM_PAGE.read_text(encoding="utf-8"), "docs/vmi-rom.md shows this run"


@pytest.mark.parametrize("end", [End.SOFT_REBOOT, End.SHUTDOWN])
def test_guest_ends_as_it_wants(end: End) -> None:
    checks_passed(on_hypervisor(build_rom_13(Flavor.PARAVIRT).data, end=end)[-1])


def test_second_processor_begins_in_the_state_at_a_physical_address() -> None:
    """As the patches pass it: below the base of low memory, where no linear address is meant."""
    rom = build_rom_13(Flavor.PARAVIRT).data
    *said, last = on_hypervisor(rom, options=replace(OPTIONS, cpus=2))
    assert said[-1] == "second processor"
    assert checks_passed(last) > PARAVIRTUAL_CHECKS + 20


@pytest.mark.qemu
@pytest.mark.parametrize("flavor", [Flavor.NATIVE, Flavor.TRACE])
def test_every_check_passes_on_a_pc(flavor: Flavor, tmp_path: Path) -> None:
    *said, last = on_pc(build_rom_13(flavor).data, tmp_path, build_image_13())
    assert said == ["version d.0", "ring 0", "no timer", "no APIC"]
    assert checks_passed(last) > NATIVE_CHECKS
    assert last in ROM_PAGE.read_text(encoding="utf-8"), "docs/vmi-rom.md shows this run"


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("rom", "said"),
    [
        (build_rom(Flavor.NATIVE).data, "mismatched version 3"),
        (build_rom_13(Flavor.PARAVIRT).data, "failed to initialize"),
        (None, "no ROM"),
    ],
)
def test_guest_on_a_pc_refuses_the_rom_and_runs_natively(
    rom: bytes | None, said: str, tmp_path: Path
) -> None:
    lines = on_pc(rom, tmp_path, build_image_13())
    assert said in lines
    assert lines[-4:-1] == ["ring 0", "no timer", "no APIC"]
    assert checks_passed(lines[-1]) > NATIVE_CHECKS


@pytest.mark.parametrize(
    ("rom", "said"),
    [
        (build_rom(Flavor.PARAVIRT).data, "mismatched version 3"),
        (build_rom_13(Flavor.PARAVIRT, api_major=6).data, "mismatched version 6"),
        (build_rom_13(Flavor.PARAVIRT, fail_init=True).data, "failed to initialize"),
    ],
)
def test_guest_that_refuses_the_rom_runs_as_if_there_were_none(rom: bytes, said: str) -> None:
    lines = on_hypervisor(rom)
    assert said in lines
    assert lines[-4:-1] == ["ring 1", "no timer", "no APIC"]
    assert checks_passed(lines[-1]) > NATIVE_CHECKS


def test_guest_takes_a_rom_of_13_3() -> None:
    checks_passed(on_hypervisor(build_rom_13(Flavor.PARAVIRT, api_minor=3).data)[-1])


def test_guest_meets_every_call_of_13_0() -> None:
    """Else the runs above promise less than they say."""
    sources = "".join(
        (Path(__file__).parents[2] / "examples" / "vmi_guest" / name).read_text(encoding="utf-8")
        for name in SOURCES_13
    )
    met = set(re.findall(r"\b(?:VMI|VMI_RAW|VMI_STACK|SITE|CALL_WINDOW)\((\w+)", sources))
    unmet = {call for call in Call13 if call <= LAST_OF_13_0 and call.name not in met}
    assert unmet == UNMET


def test_sites_look_as_the_published_one() -> None:
    """Amsden's disassembly of process.o: `sti` and a nop of four bytes, E8 and the call's number.

    His record: 23 00 00 00, the site, the translation, 05 05 04 00.
    """
    image = ElfImage.parse(build_elf_13(), "guest")
    sections = image.section_by_name
    records = list(struct.iter_unpack("<III4B", image.section_bytes(sections[".vmi.annotation"])))
    text, translations = sections[".text"], sections[".vmi.translation"]
    of_sti = [record for record in records if record[0] == 0x23]
    assert len(of_sti) >= 2
    for _, site, translation, *rest in of_sti:
        assert rest == [5, 5, 4, 0]
        off = site - text.va
        assert image.section_bytes(text)[off : off + 5] == b"\xfb\x66\x66\x66\x90"
        off = translation - translations.va
        assert image.section_bytes(translations)[off : off + 5] == b"\xe8\x23\0\0\0"
    assert text.va == LOAD_PA
    pushed = [record for record in records if record[4] > 5]
    assert {record[4] for record in pushed} == {10, 11, 14}, "push r32, imm8, imm32; call; lea"


def test_command_writes_the_guest(tmp_path: Path) -> None:
    for options, made in (([], build_elf_13), (["--multiboot"], build_image_13)):
        output = tmp_path / "guest"
        arguments = [*options, "--api", "13", "-o", str(output)]
        result = CliRunner().invoke(write_guest, arguments)
        assert result.exit_code == 0, result.output
        assert output.read_bytes() == made()
