# SPDX-License-Identifier: MIT
"""What does one of the machines do? It boots, and tells its events in batches as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.hooks import Hooks
from vmipatch.emu.hypervisor.virtual_cpu import USER_RING
from vmipatch.emu.loader import Boot
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.processor.engine import CpuFailed
from vmipatch.emu.processor.events import Event as Delivered
from vmipatch.emu.report import Ending
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom
from vmipatch.verify.console import FOREIGN_RULES, RULES, normalised
from vmipatch.verify.ended import Ended
from vmipatch.verify.lockstep.calls import ProcessWatcher
from vmipatch.verify.lockstep.events import EventKind, SeenEvent
from vmipatch.verify.lockstep.interrupt_flag import FlagModel
from vmipatch.verify.lockstep.later import Later
from vmipatch.verify.lockstep.ports import PortWrites
from vmipatch.verify.user_space import Detail
from vmipatch.verify.workload import PREFIX

NAMES: Final = ("original, native", "rewritten, native", "rewritten, paravirtual")
"""The machines, in the order of all results."""
BATCH: Final = 200
"""Events that are told at a time: so far one machine may be ahead of what has been compared."""

Tell = Callable[[list[SeenEvent]], None]


@dataclass(frozen=True, slots=True)
class WorldOrder:
    """A kernel to boot in one machine."""

    name: str
    """Its name in reports."""
    mode: Mode
    kernel: bytes = field(repr=False)
    file: str
    initrd: bytes = field(repr=False)
    command_line: str
    limit_ns: int
    detail: Detail
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class WorldEnd(Ended):
    """The outcome of a machine; the same on every run."""

    ending: Ending | None
    """None: the emulator gave up."""
    details: str
    place: str
    now_ns: int
    blocks: int
    events: int
    became_paravirtual: bool
    flags_checked: int
    """How often the virtual interrupt flag was compared with its model; 0 if missing."""
    said: tuple[str, ...]
    """The console lines of verify's own workload."""


class _Teller:
    """Collects events until there are enough to tell."""

    def __init__(self, image: ElfImage, tell: Tell) -> None:
        self.machine: Machine | None = None
        self.count = 0
        self._tell = tell
        self._batch: list[SeenEvent] = []
        self._code = [(s.va, s.end_va) for s in image.executable_sections]

    def emit(self, kind: EventKind, channel: str, text: str, va: int | None = None) -> None:
        """Keep what has just happened."""
        assert self.machine is not None, "events come from machines"
        where_va = self._here() if va is None else va
        self._batch.append(SeenEvent(kind, channel, text, self.machine.clock.now_ns, where_va))
        self.count += 1
        if len(self._batch) >= BATCH or kind is EventKind.FLAG:
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

    def send(self, value: int) -> None:
        """A byte from the guest."""
        if value == ord("\n"):
            self.finish()
        else:
            self._heard.append(value)

    def poll(self, idle: bool) -> bytes:
        """Nothing for the guest."""
        return b""

    def finish(self) -> None:
        """The line ends, if there is one."""
        line = self._heard.decode(errors="replace")
        self._heard.clear()
        for text in normalised([line], False, self._rules):
            self._teller.emit(EventKind.CONSOLE, "console", text)
            if text.startswith(PREFIX):
                self.said.append(text)


def run_world(order: WorldOrder, tell: Tell) -> WorldEnd:
    """Boot to the end. Raises InputNotUnderstood if the kernel does not fit the machine."""
    image = ElfImage.parse(order.kernel, order.file)
    teller = _Teller(image, tell)
    console = _Lines(teller, order.detail is not Detail.EXACT)
    boot = Boot(image, order.command_line, order.initrd)
    options = MachineOptions(
        limit_ns=order.limit_ns, timeout_s=order.timeout_s, display=boot.is_multiboot
    )
    spec = MachineSpec(order.mode, options, build_rom(Flavor.PARAVIRT).data)
    machine = build_machine(spec, console)
    teller.machine = machine
    later = Later(machine.cpu)
    processes = ProcessWatcher(machine, order.detail, teller.emit, later)
    flags = None
    if order.mode in (Mode.PARAVIRT, Mode.AUDIT):
        flags = FlagModel(machine, image, teller.emit, later)
    ports = PortWrites()

    def on_write(port: int, size: int, value: int) -> None:
        if (found := ports.event(port, size, value)) is not None:
            teller.emit(EventKind.PORT, *found)

    def on_delivery(event: Delivered) -> None:
        processes.on_delivery(event)
        if flags is not None:
            flags.on_delivery(event)

    machine.watch(Hooks(later.now, on_delivery=on_delivery, on_port_write=on_write))
    ending: Ending | None = None
    try:
        result = machine.run(boot)
        ending, details = result.ending, result.details
    except CpuFailed as failure:
        details = str(failure)
    console.finish()
    for channel, text in ports.sums():
        teller.emit(EventKind.PORT, channel, text)
    teller.emit(
        EventKind.END, "end", ending.value if ending else f"the emulator gave up: {details}"
    )
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
