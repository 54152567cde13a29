# SPDX-License-Identifier: MIT
"""Do two processors that execute random code reach nothing more than one does?

Each guest starts its second processor, one in four of them by a random trampoline, and both execute
random bytes until they have faulted often enough. `python -m tests.emu.hypervisor.random_processors
--guests N` runs N guests in each mode, says how they ended, in how many both processors executed
random code, and exits with 1 if a guest did what none may: `make guests`.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from tests.emu.guest import CODE_PA, DATA_PA, PRELUDE, Gate
from tests.emu.ring1_guest import INIT, ModeGuest
from tests.emu.second_processor import (
    APIC_ON,
    ARRIVAL,
    HASTY,
    INIT_SECOND,
    START,
    STARTUP_SECOND,
    TRAMPOLINE_PA,
    until,
)
from vmipatch.choices import Mode
from vmipatch.emu.clock import MAX_SLICE, NS_PER_BYTE
from vmipatch.emu.machine import Machine
from vmipatch.emu.processor.bits import Cr0
from vmipatch.emu.report import Ending
from vmipatch.isa.assemble import assemble

LIMIT_NS: Final = 3_000_000
LATE_NS: Final = MAX_SLICE * NS_PER_BYTE + 1_000_000
"""The limit is looked at after a slice, and a guest that only faults is given a millisecond."""
TIMEOUT_S: Final = 60
"""Of the host's time for one guest, as `run --timeout` has it."""
AT_ONCE: Final = 50
"""Guests of one process, since a guest may take it along."""
CODE_LEN, FAULTS = 192, 40
GATES: Final = {vector: Gate("catch") for vector in range(48)}
FIRST, SECOND, COUNT = DATA_PA, DATA_PA + 4, DATA_PA + 8
LIKELY: Final = (
    "fb", "fa", "f4", "9c", "9d", "cf", "cd80", "cd20", "0f20c0", "0f22c0", "0f22d8", "0f22e0",
    "0f0100", "0f0118", "0f01f0", "0f30", "0f32", "0f09", "0f0138", "f390", "f0ff00", "ec", "ee",
    "0f00d8", "0f00d0", "8ed0", "8ed8", "8ee0", "ea00000000", "cb", "0fc7", "0fa2", "0f31",
    "e6", "c705b0e0fefe00000000", "c70500e3fefe00450000", "c70500e3fefe00460800",
    "c70500e3fefe00440000", "c70500e3fefe51000c00", "a3", "c705", "0f23f8", "0f23c0",
    "0f23c8", "0f23",
)  # fmt: skip
"""The beginnings of what a hypervisor has to look at, writes of the ICR among them."""


@dataclass(frozen=True, slots=True)
class Fate:
    """The end of one guest."""

    seed: int
    ending: str
    """Empty after an exception of Python."""
    details: str
    ran: tuple[int, ...]
    """Numbers of the processors that executed random code."""
    ring0: str
    """Where an instruction was executed at CPL 0 that was not in real mode; empty if nowhere."""
    now_ns: int
    host_s: float

    def fault(self, mode: Mode) -> str:
        """The first thing that no guest may do and this one did; empty if nothing."""
        if not self.ending:
            return f"an exception: {self.details}"
        if Ending[self.ending] in (Ending.ESCAPED, Ending.TIMEOUT):
            return f"{self.ending} {self.details}"
        if self.ring0 and mode is not Mode.NATIVE:
            return f"CPL 0 {self.ring0}"
        if self.now_ns > LIMIT_NS + LATE_NS:
            return f"it went on until {self.now_ns} ns"
        return ""


def random_code(dice: random.Random, length: int) -> bytes:
    """Random bytes, every other piece the beginning of something sensitive."""
    code = b""
    while len(code) < length:
        if dice.random() < 0.5:
            code += bytes.fromhex(dice.choice(LIKELY))
        code += dice.randbytes(dice.randrange(4))
    return code[:length]


def _data(code: bytes) -> str:
    return ".byte " + ", ".join(map(str, code))


def _stores(place_pa: int, code: bytes) -> str:
    return "\n".join(f"mov byte ptr [{place_pa + i}], {octet}" for i, octet in enumerate(code))


def source(dice: random.Random, *, paravirtual: bool, random_trampoline: bool) -> str:
    """A fault goes on at the next place of the code; the last one stops the processor."""
    start = START
    if random_trampoline:
        trampoline = random_code(dice, dice.choice((3, 8, 24)))
        start = f"{_stores(TRAMPOLINE_PA, trampoline)}\n{APIC_ON}{INIT_SECOND}{STARTUP_SECOND}"
    waits = "" if random_trampoline else until(SECOND, 1, "started")
    return f"""
        {INIT if paravirtual else ""}
        mov dword ptr [{FIRST}], 1
        {start}
        {waits}
        jmp mixture
        {ARRIVAL}
        mov dword ptr [{SECOND}], 1
        jmp mixture
    catch:
        lock inc dword ptr ss:[{COUNT}]
        mov eax, dword ptr ss:[{COUNT}]
        cmp eax, {FAULTS}
        ja stop
        imul eax, eax, 37
        and eax, 127
        lea eax, [eax + mixture]
        jmp eax
    stop:
        cli
        hlt
        jmp stop
    .p2align 4
    mixture:
        {_data(random_code(dice, CODE_LEN))}
    mixture_end:
        jmp stop
    """


class _Witness:
    """Looks at the ring of each block when it is translated, and at who executes random code."""

    def __init__(self, mixture: range) -> None:
        """`mixture`: addresses of the random code."""
        self.machine: Machine | None = None
        self.mixture = mixture
        self.ran: set[int] = set()
        self.ring0 = ""

    def attach(self, machine: Machine) -> None:
        """Look at what this machine executes from now on."""
        self.machine = machine
        cpu, processors = machine.cpu, machine.processors
        assert processors is not None
        # Code is translated for the ring in which it is about to be executed.
        cpu.on_translated(lambda va, _: self._translated(va))
        start_va, end_va = self.mixture.start, self.mixture.stop
        cpu.watch_range(start_va, end_va, lambda _: self.ran.add(processors.current.number))

    def _translated(self, va: int) -> None:
        assert self.machine is not None and self.machine.processors is not None
        registers, number = self.machine.cpu.registers, self.machine.processors.current.number
        is_real = number > 0 and not registers.cr0 & Cr0.PE
        if registers.cpl == 0 and not is_real:
            self.ring0 = self.ring0 or f"of processor {number} at {va:#x}"


def fate(seed: int, mode: Mode) -> Fate:
    """Run one guest."""
    dice = random.Random(f"{mode.value} {seed}")
    text = source(dice, paravirtual=mode.has_rom and seed % 2 == 0, random_trampoline=seed % 4 == 3)
    labels = assemble(PRELUDE + text, CODE_PA).labels
    witness = _Witness(range(labels["mixture"], labels["mixture_end"]))
    guest = ModeGuest(text, GATES, prepare=witness.attach, mode=mode)
    begun_s = time.monotonic()
    try:
        run = guest.run(replace(HASTY, limit_ns=LIMIT_NS, timeout_s=TIMEOUT_S))
        ending, details = run.result.ending.name, run.result.details
    except Exception:
        ending, details = "", traceback.format_exc()
    now_ns = witness.machine.clock.now_ns if witness.machine else 0
    host_s = time.monotonic() - begun_s
    return Fate(seed, ending, details, tuple(sorted(witness.ran)), witness.ring0, now_ns, host_s)


def fates(mode: Mode, count: int) -> Iterator[Fate]:
    """Run guests in processes of their own. Raises RuntimeError if one takes its process along."""
    for first in range(0, count, AT_ONCE):
        end = min(first + AT_ONCE, count)
        words = [sys.executable, "-m", "tests.emu.hypervisor.random_processors"]
        words += ["--mode", mode.value, "--first", str(first), "--guests", str(end - first)]
        done = subprocess.run(
            words, check=False, capture_output=True, text=True, timeout=2 * TIMEOUT_S * AT_ONCE
        )
        lines = done.stdout.splitlines()
        if done.returncode or len(lines) != end - first:
            raise RuntimeError(f"{mode.value}: seed {first + len(lines)}: {done.stderr}")
        for line in lines:
            told = json.loads(line)
            yield Fate(**{**told, "ran": tuple(told["ran"])})


def report(mode: Mode, each: Sequence[Fate]) -> list[str]:
    """A line about all guests of a mode, and one for each that did what none may."""
    both = sum(len(one.ran) > 1 for one in each)
    endings = Counter(one.ending.lower() for one in each)
    ends = ", ".join(f"{name} {n}" for name, n in sorted(endings.items()))
    slowest = max(one.host_s for one in each)
    faults = [f"  {mode.value} {one.seed}: {why}" for one in each if (why := one.fault(mode))]
    line = (
        f"{mode.value}: {len(each)} guests, both processors executed random code in {both}, "
        f"{len(faults)} findings; {ends}; the slowest {slowest:.1f} s"
    )
    return [line, *faults]


def main() -> int:
    """Run guests in each mode; 1 if one did what none may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guests", type=int, default=500, help="in each mode")
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.mode is not None:
        for seed in range(given.first, given.first + given.guests):
            print(json.dumps(asdict(fate(seed, Mode(given.mode)))), flush=True)
        return 0
    found = 0
    for mode in Mode:
        lines = report(mode, list(fates(mode, given.guests)))
        print("\n".join(lines), flush=True)
        found += len(lines) - 1
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
