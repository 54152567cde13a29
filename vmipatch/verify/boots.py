# SPDX-License-Identifier: MIT
"""How does a kernel do on the emulated PC? One boot, and all that verify wants to know of it."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.processor.engine import CpuFailed
from vmipatch.emu.report import Call, EmulatedInstruction, Ending, Statistics
from vmipatch.emu.schedule import DEFAULT_TURN_LEN
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom
from vmipatch.verify.coverage import SiteRecorder
from vmipatch.verify.ended import Ended
from vmipatch.verify.observer import Switch, observer
from vmipatch.verify.user_space import Detail, SystemCallRecorder, Trace

COMMAND_LINE: Final = (
    "console=ttyS0 earlyprintk=serial,ttyS0 reboot=t panic=-1 nosmp noapic nolapic acpi=off "
    "nokaslr norandmaps tsc=reliable tsc_early_khz=1000000 lpj=5000000 cryptomgr.notests "
    "initramfs_async=0"
)
"""One processor, nothing random or concurrent, no clock that is measured, and a panic that ends the
run.

Ciphers do not test themselves: a distribution's kernel computes for minutes with long numbers.
"""

PLAIN_COMMAND_LINE: Final = (
    "console=ttyS0 reboot=t panic=-1 nokaslr norandmaps cryptomgr.notests initramfs_async=0"
)
"""For several processors: ACPI, APICs and measured clocks as on any PC; the rest as above.

The guide has a reason for each word."""

REPORT_EVERY_S: Final = 0.25
"""Progress is told so often, by the host's clock; the guest does not notice."""
_TAIL_LEN: Final = 120

Tell = Callable[[int, str], None]
"""Gets the virtual time in nanoseconds and the last line of the console."""


class Phase(enum.Enum):
    """One step of a verification."""

    STATIC = "static check"
    TRANSLATIONS = "translations, one by one"
    ORIGINAL = "original, native"
    NATIVE = "rewritten, native"
    AUDIT = "rewritten, paravirtual, audited"
    TRAPPED = "original, trapped"
    MEASURED = "rewritten, paravirtual"
    RACED = "rewritten, paravirtual, other turns"
    LOCKSTEP = "three machines in lockstep"
    XEN = "rewritten, domain 0 of Xen"


MODES: Final = {
    Phase.ORIGINAL: Mode.NATIVE,
    Phase.NATIVE: Mode.NATIVE,
    Phase.AUDIT: Mode.AUDIT,
    Phase.TRAPPED: Mode.TRAP,
    Phase.MEASURED: Mode.PARAVIRT,
    Phase.RACED: Mode.PARAVIRT,
}


@dataclass(frozen=True, slots=True)
class BootOrder:
    """A kernel to boot, and how to boot it."""

    phase: Phase
    kernel: bytes = field(repr=False)
    name: str
    initrd: bytes = field(repr=False)
    command_line: str
    limit_ns: int
    detail: Detail
    """How system calls are written down."""
    sites: tuple[int, ...] = ()
    """Addresses to watch for, once the kernel is paravirtual."""
    timer_shift: int = 0
    """Thousandths of its period by which the timer ticks later."""
    kernel_drag: int = 0
    """As MachineOptions has it."""
    timeout_s: float | None = None
    """Real time after which it is switched off."""
    cpus: int = 1
    turn_len: int = DEFAULT_TURN_LEN
    """Bytes of code after which another processor runs."""


@dataclass(frozen=True, slots=True)
class BootResult(Ended):
    """The outcome of a boot. All but `seconds` is the same on every run and every host."""

    phase: Phase
    ending: Ending | None
    """None: the emulator gave up, which no sound kernel makes it do."""
    details: str
    place: str
    """Function and address where the CPU stood at the end."""
    now_ns: int
    blocks: int
    console: str
    traces: tuple[Trace, ...]
    executed: frozenset[int]
    """Those of the watched sites that were executed."""
    exits: dict[str, int] = field(hash=False)
    """How often the guest was left, by kind."""
    emulated: tuple[EmulatedInstruction, ...]
    """Sensitive instructions that a paravirtual kernel executed itself."""
    functions: dict[int, str] = field(hash=False)
    """Function and offset of those instructions, by address."""
    became_paravirtual: bool
    seconds: float
    timer_shift: int = 0
    """Thousandths of its period by which the timer ticked later."""
    turn_len: int = DEFAULT_TURN_LEN
    """Bytes of code after which another processor ran."""
    processors: int = 1
    """Those that executed code at some time: a kernel starts the others itself."""

    @property
    def mode(self) -> Mode:
        """How the guest was run."""
        return MODES[self.phase]

    @property
    def calls(self) -> int:
        """System calls of all processes."""
        return sum(map(len, self.traces))


def run_boot(order: BootOrder, tell: Tell) -> BootResult:
    """Boot to the end. Raises InputNotUnderstood if the kernel does not fit the machine."""
    image = ElfImage.parse(order.kernel, order.name)
    boot = Boot(image, order.command_line, order.initrd)
    terminal = _Listener(tell)
    options = MachineOptions(
        limit_ns=order.limit_ns,
        timeout_s=order.timeout_s,
        timer_shift=order.timer_shift,
        kernel_drag=order.kernel_drag,
        cpus=order.cpus,
        turn_len=order.turn_len,
        display=boot.is_multiboot,
    )
    rom = build_rom(Flavor.PARAVIRT).data
    machine = build_machine(MachineSpec(MODES[order.phase], options, rom), terminal)
    terminal.machine = machine
    switched = Switch(machine)
    calls = SystemCallRecorder(machine.cpu, order.detail)
    sites = SiteRecorder(machine.cpu, machine.mmu, order.sites, switched.is_on)
    machine.watch(observer(calls, sites, switched))
    begun = time.perf_counter()
    ending: Ending | None = None
    try:
        result = machine.run(boot)
        ending, details = result.ending, result.details
    except CpuFailed as failure:
        details = str(failure)
    eip = machine.cpu.registers.eip
    emulated = machine.privilege.findings()
    return BootResult(
        phase=order.phase,
        ending=ending,
        details=details,
        place=f"{image.symbols.place_of(eip)} ({eip:#x})",
        now_ns=machine.clock.now_ns,
        blocks=machine.cpu.counter.blocks,
        console=terminal.text,
        traces=calls.traces(),
        executed=frozenset(sites.executed),
        exits=_exits(machine.statistics),
        emulated=emulated,
        functions={finding.va: image.symbols.place_of(finding.va) for finding in emulated},
        became_paravirtual=switched.happened,
        seconds=time.perf_counter() - begun,
        timer_shift=order.timer_shift,
        turn_len=order.turn_len,
        processors=machine.processors.started if machine.processors else 1,
    )


class _Listener:
    """The end of the serial line: keeps what it hears, and tells of progress now and then."""

    def __init__(self, tell: Tell) -> None:
        self.machine: Machine | None = None
        self._heard = bytearray()
        self._tell = tell
        self._next_s = 0.0

    @property
    def text(self) -> str:
        """All that was heard, line ends as in files."""
        return self._heard.decode(errors="replace").replace("\r\n", "\n")

    def send(self, value: int) -> None:
        """A byte from the guest."""
        self._heard.append(value)

    def poll(self, idle: bool) -> bytes:
        """Nothing for the guest."""
        now_s = time.monotonic()
        if now_s >= self._next_s and self.machine is not None:
            self._next_s = now_s + REPORT_EVERY_S
            self._tell(self.machine.clock.now_ns, self._tail())
        return b""

    def _tail(self) -> str:
        lines = self._heard[-2 * _TAIL_LEN :].decode(errors="replace").split("\n")
        finished = [line.strip() for line in lines[:-1] if line.strip()]
        return finished[-1][-_TAIL_LEN:] if finished else ""


def _exits(statistics: Statistics) -> dict[str, int]:
    """Calls into the emulator by kind; exceptions and traps by what they were for."""
    counts = {call.value: n for call, n in statistics.calls.items() if call is not Call.INTERRUPT}
    inside = statistics.traps or {f"vector {v}": n for v, n in statistics.vectors.items()}
    counts |= {str(kind): n for kind, n in inside.items()}
    return {kind: n for kind, n in sorted(counts.items()) if n}
