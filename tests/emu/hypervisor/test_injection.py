# SPDX-License-Identifier: MIT
"""Does an interrupt at any instruction of ROM and thunks leave the kernel what it was?

The example kernel runs paravirtually and prints what it sees. Meanwhile an interrupt that it does
not expect, but acknowledges, is raised right before instructions of the ROM and of the thunks:
before each of them several times. If the interrupt is not allowed there, it comes as soon as it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache

import pytest

from examples.guest import build
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.devices.pic import PicPair
from vmipatch.emu.hypervisor.rom_image import GuestRom
from vmipatch.emu.loader import Boot
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import RunResult
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage
from vmipatch.isa.decode import decode
from vmipatch.rewrite import rewrite
from vmipatch.rom import build_rom
from vmipatch.rom.entries import SERVED, Means
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import FINAL_TRANSLATION, unpack_records
from vmipatch.vmi.shared import ROM_PA, Restart
from vmipatch.vmi.table import ROW_OF

PAGE_OFFSET = 0xC0000000
ROM_VA = PAGE_OFFSET + ROM_PA
OPTIONS = MachineOptions(ram_len=32 << 20, limit_ns=20_000_000_000)
ROM = build_rom(Flavor.PARAVIRT)
SPURIOUS_VECTOR = 0x25
INJECTED_LINE = 5
BEYOND = 0x100
"""The selector of the IRETs that the kernel expects to be refused."""

WOKEN = "woken by a tick"
"""Any interrupt ends a HLT, so an injected one is seen in the lines that say this."""

NOT_INTERRUPTED = {
    "0f0b": "UD2 after a call that does not return",
}
"""Instructions of the restartable regions before which no new interrupt can arrive, and why."""


STORES_OF_TABLES = frozenset({VmiCall.GET_GDT, VmiCall.GET_IDT})


class PicWithGuest(PicPair):
    """Interrupt controllers past which an interrupt can be smuggled."""

    injected = False
    taken = 0

    def pending_line(self) -> int | None:
        """The injected line, if nothing else is pending."""
        line = super().pending_line()
        return INJECTED_LINE if line is None and self.injected else line

    def acknowledge(self, line: int) -> int:
        """The injected interrupt has a vector of its own, and nothing is in service."""
        if line != INJECTED_LINE:
            return super().acknowledge(line)
        self.injected = False
        self.taken += 1
        return SPURIOUS_VECTOR


@dataclass(slots=True)
class Injector:
    """Raises the interrupt before instructions: a number of times allowed, and as often not."""

    machine: Machine
    pic: PicWithGuest
    times: int
    stride: int
    """Only every so many executions, so that the kernel comes to do something between."""
    seen: Counter[int] = field(default_factory=Counter)
    allowed: Counter[int] = field(default_factory=Counter)
    """How often it could come before an instruction, virtual IF being on."""
    held: Counter[int] = field(default_factory=Counter)
    """How often it was raised before an instruction with virtual IF off."""
    raised: int = 0
    only_va: int | None = None
    """If given, raise it before this instruction alone, and only if the IRET there will fail."""

    def before(self, va: int) -> None:
        """An instruction is about to be executed."""
        self.seen[va] += 1
        is_allowed = self.machine.privilege.interrupts_enabled()
        counts = self.allowed if is_allowed else self.held
        if counts[va] == self.times or self.seen[va] % self.stride:
            return
        if self.only_va is not None and not (va == self.only_va and self._will_fail(va)):
            return
        if not self.pic.injected:
            counts[va] += 1
            self.raised += 1
            self.pic.injected = True
            self.machine.privilege.after_devices()
        elif is_allowed:
            # The code before has just allowed it: the hypervisor looks before the code asks it to.
            counts[va] += 1
            self.machine.cpu.stop()

    def _will_fail(self, va: int) -> bool:
        """Whether the frame on the stack names a selector without a descriptor."""
        region = next(r for r in ROM.restarts if r.start_off <= va - ROM_VA < r.end_off)
        frame_va = self.machine.cpu.registers.esp + (
            4 if region.kind is Restart.IRET_ECX_SAVED else 0
        )
        return self.machine.mmu.read_u32(frame_va + 4) & 0xFFFC == BEYOND


@cache
def kernel() -> ElfImage:
    return ElfImage.parse(rewrite(ElfImage.parse(build(), "guest")).data, "guest")


@cache
def thunks() -> range:
    """Where the thunks are: they begin with the first that a site calls, up to the runtime."""
    image = kernel()
    section = image.section_by_name[".vmi.annotation"]
    first = min(
        record.translation_va
        + record.translation_len
        + int.from_bytes(image.read(record.translation_va + 1, 4), "little", signed=True)
        for record in unpack_records(image.section_bytes(section))
        if record.call_off == FINAL_TRANSLATION
    )
    entry_va = image.symbols.address("__vmi_start")
    assert entry_va is not None
    return range(first, entry_va)


@cache
def run(mode: Mode, times: int, stride: int) -> tuple[str, Injector]:
    """Console of the kernel, and the injector that worked on it."""
    result, text, injector = disturb(mode, times, stride)
    assert result.ending.by_guest, result.details
    return text, injector


def disturb(
    mode: Mode, times: int, stride: int, only_va: int | None = None
) -> tuple[RunResult, str, Injector]:
    """A run to its end, whatever that is."""
    terminal = Silence()
    machine = build_machine(MachineSpec(mode, OPTIONS, ROM.data), terminal)
    pic = machine.board.pic
    pic.__class__ = PicWithGuest
    assert isinstance(pic, PicWithGuest)
    injector = Injector(machine, pic, times, stride, only_va=only_va)
    for start_va, end_va in (
        (ROM_VA, ROM_VA + len(ROM.data)),
        (thunks().start, thunks().stop),
    ):
        machine.cpu.watch_range(start_va, end_va, injector.before)
    result = machine.run(Boot(kernel()))
    lines = terminal.heard.decode("ascii").splitlines()
    return result, "\n".join(line for line in lines if WOKEN not in line), injector


def undisturbed(mode: Mode) -> str:
    text, injector = run(mode, 0, 1)
    assert injector.raised == 0
    assert "GUEST done" in text
    return text


@pytest.mark.parametrize(
    ("mode", "times", "stride"),
    [
        (Mode.PARAVIRT, 1, 1),
        (Mode.AUDIT, 4, 3),
        *(
            pytest.param(mode, times, stride, marks=pytest.mark.slow)
            for mode in (Mode.PARAVIRT, Mode.AUDIT)
            for times, stride in ((2, 1), (5, 2), (8, 5), (20, 7))
        ),
    ],
)
def test_interrupts_anywhere_in_rom_and_thunks_change_nothing(
    mode: Mode, times: int, stride: int
) -> None:
    text, injector = run(mode, times, stride)
    assert text == undisturbed(mode)
    assert injector.raised > 100
    assert injector.raised - injector.pic.taken <= 1


def restartable() -> dict[int, str]:
    """The instructions of the restartable regions, by address."""
    found = {}
    for region in ROM.restarts:
        stream = decode(ROM.data[region.start_off : region.end_off], ROM_VA + region.start_off)
        for index, va in enumerate(stream.starts):
            found[int(va)] = stream.bytes_at(index).hex()
    return found


def test_every_instruction_of_the_restartable_regions_was_interrupted() -> None:
    _, injector = run(Mode.PARAVIRT, 1, 1)
    wanted = {va for va, code in restartable().items() if code not in NOT_INTERRUPTED}
    assert len(wanted) > 5
    assert wanted <= set(injector.allowed)


def test_every_hot_entry_was_interrupted() -> None:
    """But for those whose sites stay native for their faults (decision 0028)."""
    _, injector = run(Mode.PARAVIRT, 1, 1)
    for call, means in SERVED.items():
        has_sites = bool(ROW_OF[call].native) and call is not VmiCall.SHUTDOWN
        if means is Means.OWN_CODE and has_sites and call not in STORES_OF_TABLES:
            assert injector.seen[ROM_VA + ROM.entries[call]], call.name


def test_interrupted_iret_that_is_refused_is_reported_at_its_site() -> None:
    interrupted = 0
    for va in restartable():
        _, text, injector = disturb(Mode.PARAVIRT, 1, 1, only_va=va)
        assert text == undisturbed(Mode.PARAVIRT), hex(va)
        interrupted += injector.raised
    assert interrupted >= 3


def test_without_restarts_a_refused_iret_is_reported_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = undisturbed(Mode.PARAVIRT)
    monkeypatch.setattr(GuestRom, "restart_at", lambda rom, va: None)
    texts = [disturb(Mode.PARAVIRT, 1, 1, only_va=va)[1] for va in restartable()]
    assert any(text != expected for text in texts)
