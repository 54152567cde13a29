# SPDX-License-Identifier: MIT
"""What does a kernel print on Xen? Xen in QEMU, its console on the second serial line."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.qemu import STEADY_CLOCK
from tests.support.xens import Xen

EMULATOR = "qemu-system-x86_64"
TIMEOUT_S = 900
"""A boot takes 10 s of a quiet host, and many times that of a busy one."""

_REFUSALS = re.compile(r"vmi: domain 0 ends, ([0-9a-f]+) hypercalls were refused")


@dataclass(frozen=True, slots=True)
class XenBoot:
    """The results of one boot."""

    console: str
    """The kernel's, on the first serial line."""
    xen_console: str
    ended: bool
    """Whether the machine was reset before the time was over."""

    @property
    def refusals(self) -> int | None:
        """Hypercalls that Xen refused; None if the ROM did not come to tell."""
        told = _REFUSALS.search(self.xen_console)
        return int(told[1], 16) if told else None

    @property
    def complaints(self) -> list[str]:
        """Lines of Xen's that a sound domain gives it no reason for.

        Not those of mm.c in a debug build: they tell of plain stores that the ROM then mends.
        """
        words = ("ASSERT", "BUG", "domain_crash", "Domain 0 crashed", "vmi: Xen refused")
        return [line for line in self.xen_console.splitlines() if any(w in line for w in words)]


def boot(
    xen: Xen,
    image: Path,
    *,
    append: str = "",
    domain_mib: int = 128,
    machine_mib: int = 512,
    timeout_s: float = TIMEOUT_S,
) -> XenBoot:
    """Boot `image` as domain 0 until the machine is reset."""
    with tempfile.TemporaryDirectory() as directory:
        first, second = (Path(directory) / name for name in ("com1", "com2"))
        module = f"{image} {append}".replace(",", ",,")
        command = [
            EMULATOR, "-accel", "tcg", *STEADY_CLOCK, "-cpu", "qemu64", "-m", str(machine_mib),
            "-display", "none", "-vga", "none", "-monitor", "none", "-no-reboot", "-nic", "none",
            "-kernel", str(xen.binary),
            "-append", f"console=com2 loglvl=all guest_loglvl=all dom0_mem={domain_mib}M",
            "-initrd", module, "-serial", f"file:{first}", "-serial", f"file:{second}",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
            ended = not done.returncode
        except subprocess.TimeoutExpired:
            ended = False
        return XenBoot(_text(first), _text(second), ended)


def _text(file: Path) -> str:
    data = file.read_bytes() if file.exists() else b""
    return data.decode("utf-8", "replace").replace("\r\n", "\n")
