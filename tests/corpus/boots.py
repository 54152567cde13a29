# SPDX-License-Identifier: MIT
"""Does a kernel of the corpus boot, as it came and rewritten, and say the same?

On a PC with two processors in two sockets, its address drawn at random (KASLR) where it can be.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.corpus.state import Result, StepOutcome
from tests.support import initramfs, kernels, qemu
from tests.support.console import GuestConsole, new_warnings
from vmipatch.verify.console import in_order

MEMORY_MIB = 512
TIMEOUT_S = 1800.0
PROCESSORS = 2
SOCKETS = ("-smp", f"{PROCESSORS},sockets={PROCESSORS}")
"""Sockets, so that no kernel takes the two for threads of one core."""
QUIET = "cryptomgr.notests"
"""Ciphers test themselves at boot: minutes with long numbers, nothing else."""
ONE_PROCESSOR = (
    "console=ttyS0 reboot=t panic=-1 nosmp noapic nolapic acpi=off nokaslr norandmaps "
    "tsc=reliable tsc_early_khz=1000000 lpj=5000000 cryptomgr.notests"
)
"""Devices of vmipatch's emulated PC."""
MARKS = ("vmi: paravirtual, ", " sites patched")
"""Messages of a runtime that found a ROM."""
SHOWN = 3
"""Differences that a message quotes."""


def workload(busybox: bytes) -> bytes:
    """An initial file system that works a little and reboots, uncompressed."""
    return initramfs.build(busybox, "workload.sh")


def workload_file(cache: Path) -> Path:
    """The workload as a file in the cache. Raises FileNotFoundError without a busybox."""
    busybox = kernels.find_busybox()
    if busybox is None:
        raise FileNotFoundError("no cache has a busybox: run `make kernels`")
    data, file = workload(busybox), cache / "workload.cpio"
    if not file.is_file() or file.read_bytes() != data:
        new = file.with_suffix(".new")
        new.write_bytes(data)
        os.replace(new, file)
    return file


def original(kernel: Path, checksum: str, initrd: Path, consoles: Path) -> Result:
    """Boot the kernel as it came, once for all products; its console is kept in `consoles`."""
    kept = _kept(consoles, checksum)
    if kept.is_file():
        return Result(StepOutcome.HOLDS)
    begin_s = time.monotonic()
    done = _start(kernel, initrd, None)
    if wrong := _unfinished(done):
        return Result(StepOutcome.LEFT_OUT, f"the kernel as it came does not boot here: {wrong}")
    consoles.mkdir(parents=True, exist_ok=True)
    new = kept.with_suffix(".new")
    new.write_text(done.console)
    os.replace(new, kept)
    return Result(StepOutcome.HOLDS, figures={"real_s": round(time.monotonic() - begin_s)})


def rewritten(
    kernel: Path, checksum: str, initrd: Path, consoles: Path, option_rom: Path | None
) -> Result:
    """Boot a rewritten kernel and compare it with what the original said."""
    done = _start(kernel, initrd, option_rom)
    said = done.preface + done.console
    wrong = _unfinished(done)
    if not wrong and (option_rom is not None) != all(mark in said for mark in MARKS):
        wrong = "it did not find the ROM" if option_rom else "it found a ROM that is not there"
    wrong = wrong or difference(_kept(consoles, checksum).read_text(), done.console)
    return Result(StepOutcome.FAILS if wrong else StepOutcome.HOLDS, wrong)


def difference(before: str, after: str) -> str:
    """Lines that two consoles up to the end of the workload do not share; empty if none."""
    differences = in_order(GuestConsole.parse(before).test, GuestConsole.parse(after).test)
    differences += new_warnings(before, after)
    return " / ".join(differences[:SHOWN])


def complaint(console: str, before: str) -> str:
    """The fault in the console of a run in the hypervisor; empty if there are none."""
    text = console.replace("\r\n", "\n").replace("\r", "\n")
    if not GuestConsole.parse(text).done:
        return f"not at the end of the workload, but at: {last_line(text)}"
    if not all(mark in text for mark in MARKS):
        return "it did not find the ROM"
    return " / ".join(new_warnings(before, text)[:SHOWN])


def last_line(console: str) -> str:
    """The last that a kernel said."""
    lines = [line.strip() for line in console.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def kept_console(consoles: Path, checksum: str) -> str:
    """Console of the original, empty if it was not booted."""
    kept = _kept(consoles, checksum)
    return kept.read_text() if kept.is_file() else ""


def _start(kernel: Path, initrd: Path, option_rom: Path | None) -> qemu.QemuBoot:
    machine = (*SOCKETS, *(() if option_rom is None else ("-option-rom", str(option_rom))))
    return qemu.boot(
        kernel,
        initrd,
        append=QUIET,
        smp=PROCESSORS,
        memory_mib=MEMORY_MIB,
        extra=machine,
        timeout_s=TIMEOUT_S,
    )


def _unfinished(done: qemu.QemuBoot) -> str:
    if done.ending is qemu.QemuEnding.RESET and GuestConsole.parse(done.console).done:
        return ""
    return f"{done.ending.value}, after: {last_line(done.console)}"


def _kept(consoles: Path, checksum: str) -> Path:
    return consoles / f"{checksum}.console"
