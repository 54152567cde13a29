# SPDX-License-Identifier: MIT
"""What does an ordinary PC make of a kernel? QEMU boots it and returns what it printed."""

from __future__ import annotations

import enum
import re
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EMULATOR = "qemu-system-i386"
COMMAND_LINE = "console=ttyS0 reboot=k panic=-1 no_timer_check"
"""Speak to the serial port; reboot by the keyboard controller; reboot at once after a panic. And
believe that the timer is connected: on a busy host it may not tick ten times in time, which Linux
answers with a panic (check_timer in arch/x86/kernel/apic/io_apic.c)."""

STEADY_CLOCK = ("-icount", "shift=3,sleep=off")
"""Every instruction takes 8 ns, and idling takes no time: one processor then runs independently of
how busy the host is, and sees the same in every run. (With several, QEMU 7.2 hangs.)"""

IN_TURN = "tcg,thread=single"
"""One thread executes all processors of a machine in turn. With a thread for each, one boot of some
hundreds stood still before its first process on a busy host (the cause was not found, 300 further
boots of original and rewritten kernel came to their end). It is not slower on two cores."""

OTHER_CLOCK = ("-icount", "shift=4,sleep=off")
"""Of a second attempt: the same clock would let the same thing happen again."""

_EFLAGS = re.compile(r"\bEFL(?:AGS)?[:=]\s*([0-9a-f]{8})\b")
_NEVER_SET = 0xFFC08028
"""Bits of EFLAGS that are 0 in every processor (Intel SDM volume 1, 3.4.3)."""
_CPU_STATE = re.compile(r"CPU#|E[A-Z]{2}=|CR0=")
_FIRST_KERNEL_LINE = "Linux version"
_TRIPLE_FAULT = "Triple fault"


class QemuEnding(enum.Enum):
    """How a boot came to its end."""

    RESET = "the kernel reset the machine (it rebooted, or panicked)"
    TRIPLE_FAULT = "the CPU could not deliver a fault"
    TIMEOUT = "the kernel neither finished nor died in time"
    EMULATOR_FAILED = "QEMU itself gave up"


@dataclass(frozen=True, slots=True)
class QemuBoot:
    """The results of one boot."""

    console: str
    """The kernel's output, with `\\n` at the line ends and without the firmware's part."""
    ending: QemuEnding
    details: str
    """The CPU states at a triple fault or at the time limit, or QEMU's complaint; else empty."""
    preface: str = ""
    """Output before the kernel's first line: firmware, the runtime of a rewritten kernel."""

    def __str__(self) -> str:
        """The verdict first: reports cut long texts off at their end."""
        return "\n".join(part for part in (self.ending.value, self.details, self.console) if part)


def boot(
    kernel: Path,
    initrd: Path,
    *,
    append: str = "",
    smp: int = 1,
    memory_mib: int = 256,
    extra: Sequence[str] = (),
    timeout_s: float = 300,
) -> QemuBoot:
    """Run a bzImage with an initial file system until it resets the machine.

    Always emulates (TCG), so that a test means the same on every host; one processor gets the
    STEADY_CLOCK. `append` is added to COMMAND_LINE, `extra` to QEMU's arguments. Raises
    FileNotFoundError without QEMU.
    """
    arguments = ["-kernel", str(kernel), "-initrd", str(initrd)]
    arguments += ["-append", f"{COMMAND_LINE} {append}".strip(), *extra]
    return start(arguments, smp=smp, memory_mib=memory_mib, timeout_s=timeout_s)


def start(
    arguments: Sequence[str], *, smp: int = 1, memory_mib: int = 256, timeout_s: float = 300
) -> QemuBoot:
    """Run a machine that finds its kernel by `arguments`, until it is reset; see `boot`.

    A boot that shows EFLAGS which no processor has is repeated, once: QEMU 7.2 can take an operand
    of cmpxchg8b for them (docs/decisions/0017), of any kernel, and DF, NT or TF with it.
    """
    clocks = (STEADY_CLOCK, OTHER_CLOCK) if smp == 1 else ((), ())
    done = _once(arguments, clocks[0], smp, memory_mib, timeout_s)
    if lost_its_flags(done):
        done = _once(arguments, clocks[1], smp, memory_mib, timeout_s)
    return done


def lost_its_flags(done: QemuBoot) -> bool:
    """Whether the console or the CPU states show an EFLAGS with bits that are always 0."""
    shown = _EFLAGS.findall(done.console) + _EFLAGS.findall(done.details)
    return any(int(value, 16) & _NEVER_SET for value in shown)


def _once(
    arguments: Sequence[str], clock: Sequence[str], smp: int, memory_mib: int, timeout_s: float
) -> QemuBoot:
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "cpu.log"
        console = Path(scratch) / "console"
        monitor = Path(scratch) / "monitor"
        command = [EMULATOR, "-accel", IN_TURN, "-nographic", "-no-reboot", "-nic", "none"]
        command += clock
        command += ["-m", str(memory_mib), "-smp", str(smp), "-d", "cpu_reset", "-D", str(log)]
        command += ["-monitor", f"unix:{monitor},server=on,wait=off"]
        command += arguments
        ending, details = _run(command, console, monitor, timeout_s)
        preface, text = _parts(console.read_text(encoding="utf-8", errors="replace"))
        resets = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if ending is QemuEnding.RESET and _TRIPLE_FAULT in resets:
        return QemuBoot(
            text, QemuEnding.TRIPLE_FAULT, resets[resets.index(_TRIPLE_FAULT) :], preface
        )
    return QemuBoot(text, ending, details, preface)


def _run(
    command: Sequence[str], console: Path, monitor: Path, timeout_s: float
) -> tuple[QemuEnding, str]:
    """Run QEMU to its end or to the time limit; its console goes to a file, so none is lost."""
    with (
        console.open("wb") as out,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE
        ) as process,
    ):
        try:
            _, complaint = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            try:
                return QemuEnding.TIMEOUT, _cpu_states(monitor)
            finally:
                process.kill()
    if process.returncode:
        return QemuEnding.EMULATOR_FAILED, complaint.decode(errors="replace")
    return QemuEnding.RESET, ""


def _cpu_states(monitor: Path) -> str:
    """Where each processor of a machine that does not come to its end is, by QEMU's monitor."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        try:
            connection.connect(str(monitor))
            connection.sendall(b"info registers -a\nquit\n")
            with connection.makefile("rb") as answer:
                text = answer.read().decode(errors="replace")
        except OSError as error:
            return f"no answer from QEMU's monitor: {error}"
    return "\n".join(line for line in text.splitlines() if _CPU_STATE.match(line))


def _parts(console: str) -> tuple[str, str]:
    """Output before the kernel's first line, and the rest; all is rest if the kernel is silent."""
    text = console.replace("\r\n", "\n").replace("\r", "\n")
    start = text.find(_FIRST_KERNEL_LINE)
    at = 0 if start < 0 else max(text.rfind("[", 0, start), 0)
    return text[:at], text[at:]
