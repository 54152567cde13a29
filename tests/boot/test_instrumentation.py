# SPDX-License-Identifier: MIT
"""Does what changes code while the kernel runs still hit the right places after the rewrite?

And does the kernel leave for another one? With Debian's kernels, and with suspend, in
tests/distro/test_instrumentation.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.boot.conftest import COMPARABLE, Machine, Variant, check_finished
from tests.conftest import InitramfsBuilder, KernelFinder
from tests.support import kexec, qemu
from tests.support.console import GuestConsole
from tests.support.roms import rom_arguments
from vmipatch.choices import Flavor
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.wrap import wrap
from vmipatch.isa.second import decode_second
from vmipatch.rom import build_rom

pytestmark = [pytest.mark.qemu, pytest.mark.kernels]

MEMORY_MIB = 256

PROBED = (
    "_raw_spin_lock_irq",
    "_raw_spin_lock_irqsave",
    "_raw_spin_unlock_irqrestore",
    "rcu_core",
    "native_flush_tlb_one_user",
    "tick_nohz_idle_enter",
)
"""Functions of smp-pae that every workload passes through and that hold a sensitive instruction."""

PREFIXES = b"\x3e\x66"
SENSITIVE = (b"\xfa", b"\xfb", b"\x9c", b"\x9d", b"\xec", b"\x0f\x20", b"\x0f\x22", b"\x0f\x01")
"""cli, sti, pushf, popf, in, mov from and to a control register, invlpg."""


def check_all_seen(pc: Machine, test: str, extra: tuple[tuple[str, bytes], ...] = ()) -> None:
    """The script finds everything it looks for, and the kernel does not complain."""
    boot = pc(Variant.REWRITTEN, "smp-pae", COMPARABLE, test, extra)
    check_finished(boot)
    results = GuestConsole.parse(boot.console).test
    assert results
    assert [line for line in results if not line.startswith("ok ")] == []


def test_every_function_still_calls_its_tracer(pc: Machine) -> None:
    check_all_seen(pc, "tracers.sh")


def test_tracepoints_switch_their_jump_labels(pc: Machine) -> None:
    check_all_seen(pc, "tracepoints.sh")


def test_probes_sit_on_sites(pc: Machine, rewritten: KernelFinder) -> None:
    image = ElfImage.parse(rewritten("smp-pae").read_bytes(), "smp-pae")
    check_all_seen(pc, "probes.sh", (("places", places(image, PROBED)),))


@pytest.mark.parametrize("rom", [None, Flavor.NATIVE], ids=["no ROM", "on a ROM"])
def test_kernel_starts_itself(
    rewritten: KernelFinder, initramfs: InitramfsBuilder, tmp_path: Path, rom: Flavor | None
) -> None:
    image = ElfImage.parse(rewritten("smp-pae").read_bytes(), "smp-pae")
    bzimage = tmp_path / "bzImage"
    bzimage.write_bytes(wrap(image, relocation_list(image, Relocations.of(image))))
    successor = kexec.program(
        bzimage.read_bytes(),
        initramfs("short.sh", ()).read_bytes(),
        f"{qemu.COMMAND_LINE} {COMPARABLE}",
        MEMORY_MIB,
    )
    archive = initramfs("kexec.sh", (("kexec", successor),))
    machine = rom_arguments(build_rom(rom).data, tmp_path) if rom else ()
    boot = qemu.boot(bzimage, archive, append=COMPARABLE, memory_mib=MEMORY_MIB, extra=machine)
    check_finished(boot)
    assert boot.console.count("Linux version") == 2
    found = boot.preface + boot.console  # the second runtime speaks after the first kernel
    assert found.count("vmi: paravirtual") == (2 if rom else 0)


def places(image: ElfImage, names: Iterable[str]) -> bytes:
    """Input of probes.sh: the place of a site in each of these functions of a kernel."""
    return "".join(f"{name}+{site_offset(image, name)}\n" for name in names).encode()


def site_offset(image: ElfImage, name: str) -> int:
    """Where in a function its first sensitive instruction is. Raises StopIteration without one."""
    function = image.symbols.by_name[name]
    code = image.read(function.va, function.size)
    decoded = decode_second(code, function.va)
    offsets: list[int] = (decoded.starts - function.va).tolist()
    ends = [*offsets[1:], len(code)]
    return next(
        start
        for start, end in zip(offsets, ends, strict=True)
        if code[start:end].lstrip(PREFIXES).startswith(SENSITIVE)
    )
