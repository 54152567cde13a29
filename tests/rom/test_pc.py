# SPDX-License-Identifier: MIT
"""Does an ordinary PC take the ROM, and can a guest that knows VMI only by its header use it?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.qemu import EMULATOR, STEADY_CLOCK
from vmipatch.choices import Flavor
from vmipatch.isa.assemble import assemble
from vmipatch.rom import Rom, build_rom
from vmipatch.rom.entries import TRACE_PORT, RelocationType, relocation_type
from vmipatch.vmi.calls import VmiCall

LOAD_PA = 0x100000
pytestmark = pytest.mark.qemu

USED = [3, 7, 16, 20, 19, 15, 19, 28, 19, 24, 25, 27, 27, 30, 31, 0, 56, 50, 33]
"""The calls that guest.S makes, in order."""
GOOD_NEWS = {
    "CR2": 0x12345000,
    "TS that CLTS cleared": 8,
    "DR2": 0x4000,
    "the clock ran forward": 0xFFFFFFFF,
    "CF after DisableInterrupts": 0xFFFFFFFF,
    "IF after DisableInterrupts": 0,
    "CPUID knows leaves": 1,
    "scratch register": 0xA5,
    "IRET came back": 0xC0DE,
}


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The assembled guest: a multiboot kernel."""
    source = Path(__file__).with_name("guest.S").read_text(encoding="utf-8")
    code = assemble(source, LOAD_PA, symbols={"IMAGE_END": LOAD_PA + 0x1000}).code
    kernel = tmp_path_factory.mktemp("guest") / "guest"
    kernel.write_bytes(code.ljust(0x1000, b"\0"))
    return kernel


def boot(guest: Path, rom: Rom | None, directory: Path) -> tuple[list[list[str]], bytes]:
    """Output of the guest, as words of lines, and the bytes at the debug port."""
    console, trace, image = (directory / name for name in ("console", "trace", "vmi.rom"))
    command = [EMULATOR, "-accel", "tcg", "-display", "none", "-no-reboot", "-nic", "none"]
    command += [*STEADY_CLOCK, "-m", "16", "-kernel", str(guest), "-monitor", "none"]
    command += ["-serial", f"file:{console}"]
    command += ["-chardev", f"file,id=trace,path={trace}"]
    command += ["-device", f"isa-debugcon,iobase={TRACE_PORT:#x},chardev=trace"]
    if rom is not None:
        image.write_bytes(rom.data)
        command += ["-option-rom", str(image)]
    subprocess.run(command, check=True, timeout=20, capture_output=True)
    text = console.read_bytes().decode("ascii", errors="replace")
    lines = text[max(text.rfind("B "), text.rfind("N")) :].splitlines()
    return [line.split() for line in lines], trace.read_bytes()


@pytest.mark.parametrize("flavor", [Flavor.NATIVE, Flavor.TRACE])
def test_guest_on_a_pc_uses_every_kind_of_call(flavor: Flavor, guest: Path, tmp_path: Path) -> None:
    rom = build_rom(flavor)
    (first, init, *answers, used, last), trace = boot(guest, rom, tmp_path)
    assert (first[0], int(first[2], 16)) == ("B", 0x0301)
    rom_pa = int(first[1], 16)
    assert rom_pa % 0x800 == 0
    assert init == ["I", "00000000"]
    assert last == ["E"]
    check_answers(rom, rom_pa, answers)
    gdt_pa, *news = (int(word, 16) for word in used[1:])
    assert LOAD_PA <= gdt_pa < LOAD_PA + 0x1000
    assert dict(zip(GOOD_NEWS, news, strict=True)) == GOOD_NEWS
    if flavor is Flavor.TRACE:
        assert list(trace[-len(USED) :]) == USED
    else:
        assert not trace.endswith(bytes(USED[-2:]))


def check_answers(rom: Rom, rom_pa: int, answers: list[list[str]]) -> None:
    """The guest was told types and absolute addresses, past the last call too."""
    assert len(answers) > max(VmiCall) + 1
    known = {int(call): call for call in VmiCall}
    for number, (mark, *words) in enumerate(answers):
        asked, kind, address = (int(word, 16) for word in words)
        call = known.get(number)
        assert (mark, asked) == ("R", number)
        assert kind == (RelocationType.NONE if call is None else relocation_type(call, rom.flavor))
        assert address == (rom_pa + rom.entries[call] if call in rom.entries else 0)


def test_paravirtual_rom_declines_a_pc(guest: Path, tmp_path: Path) -> None:
    lines, _ = boot(guest, build_rom(Flavor.PARAVIRT), tmp_path)
    assert lines[1] == ["I", "ffffffff"]


def test_guest_without_a_rom_finds_none(guest: Path, tmp_path: Path) -> None:
    lines, _ = boot(guest, None, tmp_path)
    assert lines[-1] == ["N"]
