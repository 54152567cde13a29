# SPDX-License-Identifier: MIT
"""What happened in a run? How it ended, and how often the emulator had to leave its fast path."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vmipatch.emu.processor.callbacks import Exit


class Ending(enum.Enum):
    """Why a machine stopped."""

    RESET = "the guest reset the machine"
    RESET_BY_FAULT = "the guest reset the machine by a fault without an IDT"
    HALTED = "the guest stopped its CPU for good"
    TRIPLE_FAULT = "the CPU could not deliver a fault"
    ESCAPED = "the guest reached CPL 0, which the hypervisor forbids"
    UNSUPPORTED = "the guest needs what the machine does not have"
    LIMIT = "the time limit was reached"
    TIMEOUT = "the limit of real time was reached"
    QUIT = "the user asked for it"
    POWERED_OFF = "the guest switched the machine off"

    @property
    def by_guest(self) -> bool:
        """Whether the guest meant to end the run."""
        return self in (Ending.RESET, Ending.RESET_BY_FAULT, Ending.HALTED, Ending.POWERED_OFF)

    @property
    def means(self) -> str:
        """The reason why an end that sounds like a failure is the guest's will; else empty."""
        return _RESTART if self is Ending.RESET_BY_FAULT else ""


_RESTART = (
    "a restart as the kernel wants it: where no other way is left, Linux empties its IDT and "
    "executes int3, so that the processor resets (arch/x86/kernel/reboot.c, BOOT_TRIPLE)"
)


class GuestEnded(Exception):
    """The machine stops; raised anywhere below its main loop."""

    def __init__(self, ending: Ending, details: str = "") -> None:
        super().__init__(details or ending.value)
        self.ending = ending
        self.details = details


class Call(enum.Enum):
    """A call from Unicorn into Python."""

    INTERRUPT = "exception or software interrupt"
    INVALID = "undefined instruction"
    IN = "port read"
    OUT = "port write"
    CPUID = "cpuid"
    RDTSC = "rdtsc"
    HOLE_READ = "read where no memory is"
    HOLE_WRITE = "write where no memory is"

    __hash__ = object.__hash__  # counted with each call: an Enum's own hash is Python code


@dataclass(slots=True)
class Statistics:
    """Counts of one run."""

    calls: dict[Call, int] = field(default_factory=lambda: dict.fromkeys(Call, 0))
    exits: Counter[Exit] = field(default_factory=Counter)
    """How often Unicorn was started, by why it came back."""
    vectors: Counter[int] = field(default_factory=Counter)
    """Exceptions and software interrupts by vector."""
    lines: Counter[int] = field(default_factory=Counter)
    """External interrupts by line of the controllers."""
    pauses: int = 0
    """PAUSE, with which a processor made way for another one."""
    traps: Counter[str] = field(default_factory=Counter)
    """Instructions that a privileged layer emulated, by its own names."""

    @property
    def total(self) -> int:
        """All calls into Python and all starts of Unicorn."""
        return sum(self.calls.values()) + self.exits.total()


@dataclass(frozen=True, slots=True)
class EmulatedInstruction:
    """One sensitive instruction that a paravirtual kernel executed itself."""

    va: int
    code: bytes
    name: str
    """The form as the manual writes it."""
    is_unprivileged: bool
    """Without an intercept it would have been silently wrong."""
    count: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended and what it took."""

    ending: Ending
    details: str
    statistics: Statistics = field(hash=False)
    blocks: int
    executed_len: int
    """Bytes of code executed."""
    now_ns: int
    """Virtual time at the end."""
    place: str
    """EIP and CPL at the end."""
    lacks_breakpoints: bool
    """Whether the guest switched on breakpoints in debug registers that the machine lacks."""
    plain_because: str
    """Why Unicorn's code was left as it is (docs/decisions/0022); empty if it was changed."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, sorted; of the host, only whether its Unicorn was changed."""
        statistics = self.statistics
        return {
            "ending": self.ending.name.lower(),
            "by_guest": self.ending.by_guest,
            "details": self.details,
            "place": self.place,
            "virtual_ns": self.now_ns,
            "blocks": self.blocks,
            "code_bytes": self.executed_len,
            "calls": {call.name.lower(): count for call, count in statistics.calls.items()},
            "starts": {exit_.name.lower(): statistics.exits[exit_] for exit_ in Exit},
            "vectors": {str(k): v for k, v in sorted(statistics.vectors.items())},
            "lines": {str(k): v for k, v in sorted(statistics.lines.items())},
            "traps": dict(sorted(statistics.traps.items())),
            "total": statistics.total,
            "unicorn": {"changed": not self.plain_because, "reason": self.plain_because},
        }
