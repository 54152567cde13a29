# SPDX-License-Identifier: MIT
"""What does a kernel do as domain 0 of Xen? QEMU starts Xen, and tells consoles and system calls.

The kernel has the first serial line, Xen the second. The clock counts instructions, so that a boot
does not depend on how busy the host is.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from vmipatch.errors import EnvironmentProblem
from vmipatch.verify.boots import Tell
from vmipatch.verify.user_space import Detail
from vmipatch.verify.xen.interrupt_log import CallCounter

EMULATOR: Final = "qemu-system-x86_64"
MACHINE_MIB: Final = 512
COMMAND_LINE: Final = (
    "console=ttyS0 reboot=t panic=-1 nosmp noapic nolapic acpi=off nokaslr norandmaps "
    "cryptomgr.notests initramfs_async=0"
)
"""As of the other boots with one processor, but for clocks: those are Xen's."""

_LIBC: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1
_REFUSED: Final = re.compile(r"vmi: domain 0 ends, ([0-9a-f]+) hypercalls were refused")
_FAULTS: Final = ("ASSERT", "BUG", "domain_crash", "Domain 0 crashed", "vmi: Xen refused",
                  "vmi: stop:")  # fmt: skip
"""In lines of Xen's console that a sound kernel gives no reason for."""


@dataclass(frozen=True, slots=True)
class XenOrder:
    """A hypervisor, and what it is to start."""

    hypervisor: str
    """The file that QEMU's -kernel takes, not packed."""
    hypervisor_sha256: str
    image: bytes = field(repr=False)
    memory: int
    """MiB of domain 0."""
    timeout_s: float
    detail: Detail


@dataclass(frozen=True, slots=True)
class XenBoot:
    """The results of one boot. All but `seconds` is the same on every run of one QEMU."""

    hypervisor_sha256: str
    console: str
    """The kernel's."""
    xen_console: str
    how: str
    """The end of the machine in words; empty if the kernel reset it."""
    calls: dict[str, int] = field(hash=False)
    """System calls by name and plain values."""
    seconds: float

    @property
    def refused(self) -> int | None:
        """Hypercalls that Xen refused; None if the ROM did not come to tell."""
        told = _REFUSED.search(self.xen_console)
        return int(told[1], 16) if told else None

    @property
    def faults(self) -> list[str]:
        """Complaints of Xen, and of the ROM on its console."""
        lines = self.xen_console.splitlines()
        return [line.strip() for line in lines if any(word in line for word in _FAULTS)]


def require_emulator() -> None:
    """Raise EnvironmentProblem if there is no QEMU that Xen can run in."""
    if shutil.which(EMULATOR) is None:
        raise EnvironmentProblem(
            f"Xen runs in {EMULATOR}, which is not here",
            hint="install QEMU for x86 (Debian: qemu-system-x86), or leave --xen out",
        )


def run_on_xen(order: XenOrder, tell: Tell) -> XenBoot:
    """Boot until the machine is reset, or the time is over. Raises EnvironmentProblem."""
    require_emulator()
    begun, counter = time.monotonic(), CallCounter(order.detail)
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        (scratch / "image").write_bytes(order.image)
        code, said = _run(_command(order, scratch), counter, order.timeout_s, tell)
        console, xen_console = _text(scratch / "com1"), _text(scratch / "com2")
    how = ""
    if code == -signal.SIGKILL:
        how = f"the kernel neither finished nor died in {order.timeout_s:g} s"
    elif code:
        how = f"QEMU gave up with exit code {code}: {said.replace(directory, '...')}"
    return XenBoot(
        hypervisor_sha256=order.hypervisor_sha256,
        console=console,
        xen_console=xen_console,
        how=how,
        calls=dict(counter.calls),
        seconds=time.monotonic() - begun,
    )


def _command(order: XenOrder, scratch: Path) -> list[str]:
    """QEMU's arguments but for where the log goes."""
    image = str(scratch / "image").replace(",", ",,")
    return [
        EMULATOR, "-accel", "tcg", "-icount", "shift=3,sleep=off", "-cpu", "qemu64",
        "-m", str(MACHINE_MIB), "-display", "none", "-vga", "none", "-monitor", "none",
        "-no-reboot", "-nic", "none", "-rtc", "base=2025-01-01", "-kernel", order.hypervisor,
        "-append", f"console=com2 loglvl=all guest_loglvl=all dom0_mem={order.memory}M",
        "-initrd", image, "-serial", f"file:{scratch / 'com1'}", "-serial",
        f"file:{scratch / 'com2'}", "-d", "int",
    ]  # fmt: skip


def _run(command: list[str], counter: CallCounter, timeout_s: float, tell: Tell) -> tuple[int, str]:
    """QEMU's exit code, negative if it was killed, and the last line of its complaints."""
    reading, writing = os.pipe()
    with open(reading, "rb") as log, tempfile.TemporaryFile() as complaints:
        command = [*command, "-D", f"/dev/fd/{writing}"]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                pass_fds=[writing],
                preexec_fn=_end_with_parent,  # noqa: PLW1509 (one system call, by a loaded library)
            )
        finally:
            os.close(writing)
        clock = threading.Timer(timeout_s, process.kill)
        clock.daemon = True
        clock.start()
        try:
            _read(log, counter, tell)
            code = process.wait()
        finally:
            clock.cancel()
            process.kill()
            process.wait()
        complaints.seek(0)
        lines = complaints.read().decode("utf-8", "replace").strip().splitlines()
    return code, lines[-1] if lines else ""


def _end_with_parent() -> None:
    """In the new process: it is killed when the one that started it is gone (prctl(2))."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _read(log: IO[bytes], counter: CallCounter, tell: Tell) -> None:
    """To the end of the log, which is that of the process."""
    for line in log:
        counter.take(line)
    tell(0, f"{counter.calls.total()} system calls")


def _text(file: Path) -> str:
    data = file.read_bytes() if file.exists() else b""
    return data.decode("utf-8", "replace").replace("\r\n", "\n")
