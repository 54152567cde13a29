# SPDX-License-Identifier: MIT
"""What does one of the machines do? It boots, and tells its events in batches as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vmipatch.choices import Flavor, Mode
from vmipatch.emu.cpu import CpuFailed
from vmipatch.emu.events import Event as Delivered
from vmipatch.emu.loader import Boot
from vmipatch.emu.machine import Machine, MachineOptions
from vmipatch.emu.modes import build_machine
from vmipatch.emu.paravirt import ParavirtPrivilege
from vmipatch.emu.report import Ending
from vmipatch.emu.virtual_cpu import USER_RING
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom
from vmipatch.verify.console import FOREIGN_RULES, RULES, normalised
from vmipatch.verify.ended import Ended
from vmipatch.verify.lockstep.calls import ProcessWatcher
from vmipatch.verify.lockstep.events import Event, Kind
from vmipatch.verify.lockstep.interrupt_flag import FlagModel
from vmipatch.verify.lockstep.later import Later
from vmipatch.verify.lockstep.ports import PortWrites
from vmipatch.verify.user_space import Detail
from vmipatch.verify.workload import PREFIX

NAMES: Final = ("original, native", "rewritten, native", "rewritten, paravirtual")
"""The machines, in the order of all results."""
BATCH: Final = 200
"""Events that are told at a time: so far one machine may be ahead of what has been compared."""

Tell = Callable[[list[Event]], None]


@dataclass(frozen=True, slots=True)
class WorldOrder:
    """What one machine boots."""

    name: str
    """What reports call it."""
    mode: Mode
    kernel: bytes = field(repr=False)
    file: str
    initrd: bytes = field(repr=False)
    command_line: str
    limit_ns: int
    detail: Detail


@dataclass(frozen=True, slots=True)
class WorldEnd(Ended):
    """What became of it; the same on every run."""

    ending: Ending | None
    """None: the emulator gave up."""
    details: str
    place: str
    now_ns: int
    blocks: int
    events: int
    became_paravirtual: bool
    flags_checked: int
    """How often the virtual interrupt flag was compared with its model; 0 if there is none."""
    said: tuple[str, ...]
    """The console lines of verify's own workload."""


class _Teller:
    """Collects events until there are enough to tell."""

    def __init__(self, image: ElfImage, tell: Tell) -> None:
        self.machine: Machine | None = None
        self.count = 0
        self._tell = tell
        self._batch: list[Event] = []
        self._code = [(s.va, s.end_va) for s in image.executable_sections]

    def emit(self, kind: Kind, channel: str, text: str, va: int | None = None) -> None:
        """Keep what has just happened."""
        assert self.machine is not None, "events come from machines"
        where_va = self._here() if va is None else va
        self._batch.append(Event(kind, channel, text, self.machine.clock.now_ns, where_va))
        self.count += 1
        if len(self._batch) >= BATCH or kind is Kind.FLAG:
            self.flush()

    def flush(self) -> None:
        """Tell what has been kept."""
        if self._batch:
            self._tell(self._batch)
            self._batch = []

    def _here(self) -> int:
        """Where the CPU stands; of the ROM, where it will return to."""
        assert self.machine is not None, "asked before"
        registers, mmu = self.machine.cpu.registers, self.machine.mmu
        va = registers.code_va
        if registers.cpl == USER_RING or any(start <= va < end for start, end in self._code):
            return va
        caller = mmu.peek(registers.stack_va(registers.esp), 4)
        return int.from_bytes(caller, "little") if len(caller) == 4 else va


class _Lines:
    """The end of the serial line: hears bytes, emits lines as they are compared."""

    def __init__(self, teller: _Teller, foreign: bool) -> None:
        self._teller = teller
        self._rules = RULES + FOREIGN_RULES if foreign else RULES
        self._heard = bytearray()
        self.said: list[str] = []
        self.later: Later | None = None

    def send(self, value: int) -> None:
        """A byte from the guest."""
        if value == ord("\n"):
            self.finish()
        else:
            self._heard.append(value)

    def poll(self, idle: bool) -> bytes:
        """Nothing for the guest; between two runs of the CPU, what had to wait for that."""
        if self.later is not None:
            self.later.now()
        return b""

    def finish(self) -> None:
        """The line ends, if there is one."""
        line = self._heard.decode(errors="replace")
        self._heard.clear()
        for text in normalised([line], False, self._rules):
            self._teller.emit(Kind.CONSOLE, "console", text)
            if text.startswith(PREFIX):
                self.said.append(text)


def run_world(order: WorldOrder, tell: Tell) -> WorldEnd:
    """Boot to the end. Raises InputNotUnderstood if the kernel does not fit the machine."""
    image = ElfImage.parse(order.kernel, order.file)
    teller = _Teller(image, tell)
    console = _Lines(teller, order.detail is not Detail.EXACT)
    options = MachineOptions(limit_ns=order.limit_ns)
    machine = build_machine(order.mode, console, options, rom=build_rom(Flavor.PARAVIRT).data)
    teller.machine = machine
    later = console.later = Later(machine.cpu)
    processes = ProcessWatcher(machine, order.detail, teller.emit, later)
    privilege = machine.privilege
    flags = None
    if isinstance(privilege, ParavirtPrivilege):
        flags = FlagModel(machine, privilege, image, teller.emit, later)
    ports = PortWrites()

    def on_write(port: int, size: int, value: int) -> None:
        if (found := ports.event(port, size, value)) is not None:
            teller.emit(Kind.PORT, *found)

    def on_delivery(event: Delivered) -> None:
        processes.on_delivery(event)
        if flags is not None:
            flags.on_delivery(event)

    machine.board.bus.on_write = on_write
    machine.on_delivery = on_delivery
    ending: Ending | None = None
    try:
        result = machine.run(Boot(image, order.command_line, order.initrd))
        ending, details = result.ending, result.details
    except CpuFailed as failure:
        details = str(failure)
    console.finish()
    for channel, text in ports.sums():
        teller.emit(Kind.PORT, channel, text)
    teller.emit(Kind.END, "end", ending.value if ending else f"the emulator gave up: {details}")
    teller.flush()
    eip = machine.cpu.registers.eip
    return WorldEnd(
        ending=ending,
        details=details,
        place=f"{image.symbols.place_of(eip)} ({eip:#x})",
        now_ns=machine.clock.now_ns,
        blocks=machine.cpu.counter.blocks,
        events=teller.count,
        became_paravirtual=flags is not None and flags.was_paravirtual,
        flags_checked=flags.checked if flags else 0,
        said=tuple(console.said),
    )
