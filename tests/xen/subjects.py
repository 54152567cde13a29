# SPDX-License-Identifier: MIT
"""Which kernels boot on Xen in the tests, how, and what do they print on a PC?"""

from __future__ import annotations

import gzip
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.conftest import missing
from tests.support import initramfs, kernels, qemu, xens
from tests.xen.machine import XenBoot, boot
from vmipatch.files.open import open_kernel

COMMAND_LINE = "console=ttyS0 reboot=t panic=-1 nolapic noapic nosmp acpi=off"
"""Neither local APIC nor ACPI: both are Xen's, and what describes them is not shown."""
MACHINE_MIB, DOMAIN_MIB = 512, 128
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A rewritten kernel, and the bzImage of the original."""

    name: str
    data: bytes
    original: Path


def disk(extra: Mapping[str, bytes] | None = None) -> bytes:
    """An initial file system with the tests' own workload, or another `test` among `extra`."""
    busybox = kernels.find_busybox() or missing("busybox")
    return gzip.compress(initramfs.build(busybox, "workload.sh", extra), mtime=0)


def pressure_disk() -> bytes:
    """One whose workload is many processes and much memory."""
    return disk({"test": (_HERE / "pressure.sh").read_bytes()})


@cache
def programs_disk() -> bytes:
    """One whose workload is the processes of programs.c."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "programs"
        flags = ["-m32", "-O1", "-nostdlib", "-static", "-no-pie", "-fno-pie", "-ffreestanding"]
        flags += ["-fno-stack-protector", "-fcf-protection=none", "-mno-sse", "-Wall", "-Werror"]
        subprocess.run(["gcc", *flags, "-o", out, _HERE / "programs.c"], check=True)
        return disk({"test": b"/programs\n", "programs": out.read_bytes()})


@cache
def rewritten(name: str) -> Rewritten:
    """A vmlinux of ours, or Debian's vmlinuz with its debug twin."""
    if name in kernels.DISTRO_FLAVOURS:
        distro = kernels.find_distro(name)
        if distro is None:
            missing(name, f"python -m tests.kernels {name}")
        debug = open_kernel(distro.vmlinux, keep_debug=False)
        return Rewritten(
            name, open_kernel(distro.vmlinuz).rewrite(debug=debug).data, distro.vmlinuz
        )
    built = kernels.find(name)
    if built is None:
        missing(f"the test kernel {name}")
    done = open_kernel(built.vmlinux, keep_debug=False).rewrite()
    return Rewritten(name, done.data, built.directory / "bzImage")


def hypervisor(name: str) -> xens.Xen:
    """The Xen of that name."""
    return xens.find(name) or missing(name, f"python -m tests.xen {name}")


@cache
def on_a_pc(kernel: Rewritten, initrd: bytes, append: str = "") -> str:
    """The original's console in QEMU, with Xen's processor and the same command line."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "initrd"
        file.write_bytes(initrd)
        arguments = ["-cpu", "qemu64", "-vga", "none", "-kernel", str(kernel.original)]
        arguments += ["-initrd", str(file), "-append", f"{COMMAND_LINE} {append}".rstrip()]
        return qemu.start(arguments, memory_mib=MACHINE_MIB).console


def on_xen(
    xen: xens.Xen,
    kernel: Rewritten,
    initrd: bytes,
    *,
    append: str = "",
    machine: int = MACHINE_MIB,
    domain: int = DOMAIN_MIB,
) -> XenBoot:
    """One boot of the rewritten kernel."""
    made = open_kernel(kernel.data, name=kernel.name).xen_image(
        initrd=initrd, append=f"{COMMAND_LINE} {append}".rstrip(), memory=domain
    )
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "dom0.elf"
        image.write_bytes(made.data)
        return boot(xen, image, domain_mib=domain, machine_mib=machine)


def check_sound(seen: XenBoot) -> None:
    """The machine was reset by the kernel, and Xen had nothing to say."""
    assert seen.ended, seen.xen_console
    assert seen.refusals == 0
    assert seen.complaints == []
    assert "vmi: paravirtual" in seen.console
    assert "Oops" not in seen.console
