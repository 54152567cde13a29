# SPDX-License-Identifier: MIT
"""Does a guest that was written from the interface alone find all of it, and cope with less?"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from examples.vmi_guest.__main__ import main as write_guest
from examples.vmi_guest.build import NATIVE, SOURCES, End, build_elf, build_image
from tests.support.qemu import EMULATOR, STEADY_CLOCK
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending, RunResult
from vmipatch.emu.terminal import Silence
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom
from vmipatch.rom.entries import RelocationType, relocation_type
from vmipatch.vmi.calls import VmiCall

C = VmiCall
ROM_PAGE = Path(__file__).parents[2] / "docs" / "vmi-rom.md"
OPTIONS = MachineOptions(ram_len=16 << 20, limit_ns=3_000_000_000)
TIMER = {
    C.GET_CYCLE_FREQUENCY, C.GET_CYCLE_COUNTER, C.SET_ALARM, C.CANCEL_ALARM,
    C.GET_WALLCLOCK_TIME, C.WALLCLOCK_UPDATED,
}  # fmt: skip
APIC = {C.APIC_READ, C.APIC_WRITE}
LAST_OF_3_0 = 73
NEVER_DECLINED = {C.IRET, C.SYSEXIT}
HAS_NO_NATIVE_FORM = TIMER | APIC | NEVER_DECLINED


def run_on_hypervisor(
    rom: bytes, mode: Mode, end: End, options: MachineOptions = OPTIONS
) -> tuple[RunResult, list[str]]:
    """How it ended, and what the guest said."""
    terminal = Silence()
    machine = build_machine(MachineSpec(mode, options, rom), terminal)
    result = machine.run(Boot(ElfImage.parse(build_elf(end), "guest")))
    return result, terminal.heard.decode("ascii").splitlines()


def on_hypervisor(rom: bytes, mode: Mode = Mode.PARAVIRT, end: End = End.HARD_REBOOT) -> list[str]:
    """Lines of the guest; the machine must have come to its end as the guest wanted."""
    result, lines = run_on_hypervisor(rom, mode, end)
    wanted = Ending.HALTED if end is End.SHUTDOWN else Ending.RESET
    assert result.ending is wanted, (result, lines)
    assert result.place.endswith("CPL 1")
    return lines


def on_pc(rom: bytes | None, directory: Path, guest: bytes = build_image()) -> list[str]:
    """Lines of the guest in QEMU, where SeaBIOS finds the ROM if one is given."""
    kernel, image, console = (directory / name for name in ("guest", "vmi.rom", "console"))
    kernel.write_bytes(guest)
    command = [EMULATOR, "-accel", "tcg", "-display", "none", "-no-reboot", "-nic", "none"]
    command += [*STEADY_CLOCK, "-m", "16", "-kernel", str(kernel), "-monitor", "none"]
    command += ["-serial", f"file:{console}"]
    if rom is not None:
        image.write_bytes(rom)
        command += ["-option-rom", str(image)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    text = console.read_bytes().decode("ascii", errors="replace")
    lines = text.replace("\r", "").splitlines()
    first = next((i for i, line in enumerate(lines) if _is_the_guests(line)), len(lines))
    return lines[first:]


def _is_the_guests(line: str) -> bool:
    return line.startswith(("maker", "version", "mismatched", "no ", "licence", "FAIL"))


def checks_passed(line: str) -> int:
    """How many checks the last line counts, none of which may have failed."""
    _, made, _, failed, _ = line.split()
    assert int(failed, 16) == 0, line
    return int(made, 16)


def test_every_check_passes_on_the_hypervisor() -> None:
    *said, last = on_hypervisor(build_rom(Flavor.PARAVIRT).data)
    assert said == ["maker vmipatch", "version 3.1, hole from 0", "ring 1"]
    assert checks_passed(last) > 900
    assert last in ROM_PAGE.read_text(encoding="utf-8"), "docs/vmi-rom.md shows this run"


def test_every_check_passes_below_a_hole() -> None:
    rom = build_rom(Flavor.PARAVIRT, virtual_top=0xFC000000)
    *said, last = on_hypervisor(rom.data)
    assert said[1] == "version 3.1, hole from fc000000"
    assert checks_passed(last) > 900


def test_every_check_passes_in_an_audit_run() -> None:
    assert checks_passed(on_hypervisor(build_rom(Flavor.PARAVIRT).data, Mode.AUDIT)[-1]) > 900


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("mode", [Mode.PARAVIRT, Mode.AUDIT])
def test_second_processor_begins_in_the_state_that_the_guest_told(mode: Mode, minor: int) -> None:
    """Every register of it, of a ROM that keeps all others and of one that does not."""
    rom = build_rom(Flavor.PARAVIRT, api_minor=minor).data
    _, alone = run_on_hypervisor(rom, mode, End.HARD_REBOOT)
    result, said = run_on_hypervisor(rom, mode, End.HARD_REBOOT, replace(OPTIONS, cpus=2))
    assert result.ending is Ending.RESET, (result, said)
    assert said[-2] == "second processor"
    assert checks_passed(said[-1]) > checks_passed(alone[-1]) + 20


@pytest.mark.parametrize(("options", "made"), [([], build_elf), (["--multiboot"], build_image)])
def test_command_writes_the_guest(
    options: list[str], made: Callable[[], bytes], tmp_path: Path
) -> None:
    output = tmp_path / "guest"
    result = CliRunner().invoke(write_guest, [*options, "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert output.read_bytes() == made()


@pytest.mark.parametrize("end", [End.SOFT_REBOOT, End.SHUTDOWN])
def test_guest_ends_as_it_wants(end: End) -> None:
    """By Reboot, soft or (above) hard, or by Shutdown, none of which comes back."""
    checks_passed(on_hypervisor(build_rom(Flavor.PARAVIRT).data, end=end)[-1])


@pytest.mark.qemu
@pytest.mark.parametrize("flavor", [Flavor.NATIVE, Flavor.TRACE])
def test_every_check_passes_on_a_pc(flavor: Flavor, tmp_path: Path) -> None:
    *said, last = on_pc(build_rom(flavor).data, tmp_path)
    assert said[1:] == ["version 3.1, hole from 0", "ring 0", "no timer", "no APIC"]
    assert checks_passed(last) > 600
    assert last in ROM_PAGE.read_text(encoding="utf-8"), "docs/vmi-rom.md shows this run"


def test_guest_meets_every_call_of_3_0() -> None:
    """Else the runs above promise less than they say: numbers 42, 43 and 72 mean nothing."""
    sources = "".join(
        (Path(__file__).parents[2] / "examples" / "vmi_guest" / name).read_text(encoding="utf-8")
        for name in SOURCES
    )
    unmet = {call for call in VmiCall if f"VMI({call.name})" not in sources}
    raw = {call for call in unmet if f"VMI_RAW({call.name})" in sources}
    assert raw == {C.IRET, C.SYSEXIT}
    unmet -= {call for call in unmet if f"SITE({call.name}, " in sources}
    beyond = {call for call in VmiCall if call > LAST_OF_3_0}
    undocumented = {C.MACHINE_TO_PHYSICAL, C.PHYSICAL_TO_MACHINE, C.SET_CALLBACKS}
    assert unmet - raw - beyond == undocumented


def changed(off: int, data: bytes, flavor: Flavor = Flavor.PARAVIRT) -> bytes:
    """A ROM with other bytes at one place, and a sum of 0 all the same."""
    image = bytearray(build_rom(flavor).data)
    image[off : off + len(data)] = data
    image[-1] = (image[-1] - sum(image)) & 0xFF
    return bytes(image)


REFUSED = [
    (build_rom(Flavor.PARAVIRT, api_major=4).data, "mismatched version 4"),
    (build_rom(Flavor.PARAVIRT, api_major=2).data, "mismatched version 2"),
    (build_rom(Flavor.PARAVIRT, license="BSD").data, "licence BSD"),
    (build_rom(Flavor.PARAVIRT, license="GPL v3").data, "licence GPL v3"),
    (build_rom(Flavor.PARAVIRT, license="GPLv2").data, "licence GPLv2"),
    (build_rom(Flavor.PARAVIRT, fail_init=True).data, "failed to initialize"),
    (changed(0x18, b"\0\0"), "no PCI header"),
    (changed(0, b"\0\0"), "no ROM"),
    (changed(8, b"cVmj"), "no ROM"),
]


@pytest.mark.parametrize(("rom", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_guest_that_refuses_the_rom_runs_natively(rom: bytes, said: str) -> None:
    """All that has a native form then serves; what has none is not asked for."""
    lines = on_hypervisor(rom)
    assert [line for line in lines if not line.startswith(("maker", "version"))][:-1] == [
        said, "ring 1", "no timer", "no APIC",
    ]  # fmt: skip
    assert checks_passed(lines[-1]) > 400


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("rom", "said"),
    [
        (build_rom(Flavor.NATIVE, license="BSD").data, "licence BSD"),
        (build_rom(Flavor.PARAVIRT).data, "failed to initialize"),
        (None, "no ROM"),
    ],
)
def test_guest_on_a_pc_refuses_the_rom_and_runs_natively(
    rom: bytes | None, said: str, tmp_path: Path
) -> None:
    """The paravirtual ROM finds no hypervisor there."""
    lines = on_pc(rom, tmp_path)
    assert said in lines
    assert lines[-4:-1] == ["ring 0", "no timer", "no APIC"]
    assert checks_passed(lines[-1]) > 400


def test_other_manufacturer_is_no_reason_to_refuse() -> None:
    said = on_hypervisor(changed(0x34, b"\x86\x80\x37\x12"))
    assert "unknown manufacturer" in said
    checks_passed(said[-1])


@pytest.mark.parametrize("license", ["GPL", "GPL v2"])
def test_guest_takes_either_licence(license: str) -> None:
    checks_passed(on_hypervisor(build_rom(Flavor.PARAVIRT, license=license).data)[-1])


def test_guest_of_3_0_takes_the_rom_too() -> None:
    checks_passed(on_hypervisor(build_rom(Flavor.PARAVIRT, api_minor=0).data)[-1])


def declinable() -> list[VmiCall]:
    return [call for call in NATIVE if call not in HAS_NO_NATIVE_FORM]


@pytest.mark.parametrize("call", declinable())
def test_native_form_serves_a_call_that_is_declined(call: VmiCall) -> None:
    """NONE for one call: what stands at its sites is trapped, and means the same."""
    rom = build_rom(Flavor.PARAVIRT, none={call})
    checks_passed(on_hypervisor(rom.data, Mode.AUDIT)[-1])


def test_native_forms_serve_when_all_but_the_returns_are_declined() -> None:
    rom = build_rom(Flavor.PARAVIRT, none=frozenset(VmiCall) - NEVER_DECLINED)
    *said, last = on_hypervisor(rom.data, Mode.AUDIT)
    assert said[-2:] == ["no timer", "no APIC"]
    checks_passed(last)


@pytest.mark.parametrize(
    "call",
    [
        C.IO_DELAY, C.WBINVD, C.UPDATE_PXE, C.UPDATE_PXE_LONG, C.SET_LAZY_MODE, C.ALLOCATE_PAGE,
        C.RELEASE_PAGE, C.UPDATE_KERNEL_STACK, C.SET_LINEAR_MAPPING, C.SET_INITIAL_AP_STATE,
    ],
)  # fmt: skip
def test_padding_serves_for_a_hint(call: VmiCall) -> None:
    """NOP where nothing has to be done: here the hypervisor reads the guest's own memory."""
    checks_passed(on_hypervisor(build_rom(Flavor.PARAVIRT, nop={call}).data)[-1])


def test_guest_is_lost_where_sysexit_is_declined() -> None:
    """Its native form is a jump into nowhere, as Linux has it: the ROM must never do that."""
    said = on_hypervisor(build_rom(Flavor.PARAVIRT, none={C.SYSEXIT}).data)
    assert said[-1].startswith("fault e ") and said[-1].endswith(" at feedbab0")


@pytest.mark.parametrize("mode", [Mode.PARAVIRT, Mode.AUDIT])
def test_guest_may_be_told_to_jump_to_sysexit(mode: Mode) -> None:
    """JUMP_REL where a site ends its path: the return address is not needed."""
    rom = build_rom(Flavor.PARAVIRT, jump={C.SYSEXIT})
    checks_passed(on_hypervisor(rom.data, mode)[-1])


@pytest.mark.qemu
def test_guest_on_a_pc_may_be_told_to_jump_to_sysexit(tmp_path: Path) -> None:
    checks_passed(on_pc(build_rom(Flavor.NATIVE, jump={C.SYSEXIT}).data, tmp_path)[-1])


@pytest.mark.parametrize("call", [C.SET_TR, C.GET_CR0, C.SET_PXE])
def test_guest_refuses_to_jump_where_it_has_a_pointer(call: VmiCall) -> None:
    """Linux stops as well: a function cannot be replaced by a jump."""
    said = on_hypervisor(build_rom(Flavor.PARAVIRT, jump={call}).data)
    assert said[-1] == f"jump refused for call {call:x}"


def test_our_roms_never_ask_for_a_jump() -> None:
    """A jump hides the site, which a fault of IRET has to name."""
    for flavor in Flavor:
        kinds = {relocation_type(call, flavor) for call in VmiCall}
        assert kinds == {RelocationType.NONE, RelocationType.CALL_REL, RelocationType.NOP}


def test_hypervisor_does_not_start_with_a_rom_that_declines_iret() -> None:
    with pytest.raises(InputNotUnderstood):
        on_hypervisor(build_rom(Flavor.PARAVIRT, none={C.IRET}).data)


def test_guest_is_lost_where_if_calls_become_padding() -> None:
    """NOP for DisableInterrupts: the guest's own check sees it, if it comes to an end or not."""
    rom = build_rom(Flavor.PARAVIRT, nop={C.DISABLE_INTERRUPTS}).data
    _, said = run_on_hypervisor(rom, Mode.PARAVIRT, End.HARD_REBOOT)
    assert any(line.startswith("FAIL IF after") for line in said)
