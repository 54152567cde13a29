# SPDX-License-Identifier: MIT
"""Does what changes a Debian kernel's code, or leaves it and comes back, do as in the original?

Function tracers, probes on sites, suspend, and the kernel's own successor by kexec: all in one boot
of each variant. A smaller part runs by default: tests/boot/test_instrumentation.py.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import cache

import pytest

from tests.boot.conftest import COMPARABLE
from tests.boot.test_instrumentation import places
from tests.conftest import InitramfsBuilder
from tests.distro.conftest import NO_SELF_TESTS, DistroFinder, ShippedFinder
from tests.support import kexec, qemu
from tests.support.console import GuestConsole, compare, complaints, new_warnings
from tests.support.roms import rom_arguments
from vmipatch.choices import Flavor
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom

pytestmark = [pytest.mark.distro, pytest.mark.qemu]

PROBED = (
    "_raw_spin_lock_irq",
    "_raw_spin_lock_irqsave",
    "_raw_spin_unlock_irqrestore",
    "rcu_core",
    "native_flush_tlb_one_user",
    "call_rcu",
    "___slab_alloc",
)
"""Functions that every workload passes through and that hold a sensitive instruction."""

MEMORY_MIB = 512
OPTIONS = f"{COMPARABLE} {NO_SELF_TESTS} audit=0"
TOPICS = ("tracers", "probes", "suspend", "kexec")
"""The headings of changes.sh."""
SUCCESSOR = "Linux version"
"""Each kernel's first line."""


class Variant(enum.Enum):
    """Which kernel, and on what."""

    ORIGINAL = "original"
    REWRITTEN = "rewritten"
    ON_A_ROM = "rewritten, on a ROM"


REWRITTEN = pytest.mark.parametrize("variant", [Variant.REWRITTEN, Variant.ON_A_ROM])
Booter = Callable[[Variant, str], qemu.QemuBoot]


@pytest.fixture(scope="module")
def boot(
    distro: DistroFinder,
    shipped: ShippedFinder,
    initramfs: InitramfsBuilder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Booter:
    """Run changes.sh on one variant of a kernel, once."""
    directory = tmp_path_factory.mktemp("instrumentation")

    @cache
    def once(variant: Variant, name: str) -> qemu.QemuBoot:
        found = distro(name) if variant is Variant.ORIGINAL else shipped(name)
        kernel, vmlinux = found.vmlinuz, found.vmlinux
        successor = kexec.program(
            kernel.read_bytes(),
            initramfs("short.sh", ()).read_bytes(),
            f"{qemu.COMMAND_LINE} {OPTIONS}",
            MEMORY_MIB,
        )
        image = ElfImage.parse(vmlinux.read_bytes(), name)
        extra = (("kexec", successor), ("places", places(image, PROBED)))
        machine = ["-rtc", "base=2025-01-01"]
        if variant is Variant.ON_A_ROM:
            machine += rom_arguments(build_rom(Flavor.NATIVE).data, directory)
        archive = initramfs("changes.sh", extra)
        return qemu.boot(
            kernel, archive, append=OPTIONS, memory_mib=MEMORY_MIB, extra=machine, timeout_s=900
        )

    return once


def lives(boot: qemu.QemuBoot) -> tuple[str, str]:
    """The console of the kernel that was started, and that of the one which it started."""
    at = boot.console.rfind(SUCCESSOR)
    begin = boot.console.rfind("\n", 0, at) + 1
    return boot.console[:begin], boot.console[begin:]


def said(boot: qemu.QemuBoot) -> dict[str, list[str]]:
    """Output of changes.sh, by topic."""
    result: dict[str, list[str]] = {}
    for line in GuestConsole.parse(lives(boot)[0]).test:
        if line.startswith("== "):
            result[line[3:]] = []
        elif result:
            result[list(result)[-1]].append(line)
    assert tuple(result) == TOPICS, str(boot)
    return result


@REWRITTEN
def test_every_function_calls_its_tracer_and_stops(
    boot: Booter, variant: Variant, name: str
) -> None:
    """Not the graph tracer: with a clock that counts instructions, Debian's kernels do not get
    past the timer's interrupts under it, rewritten or not.
    """
    lines = said(boot(variant, name))["tracers"]
    assert lines == ["ok function tracer"]


@REWRITTEN
def test_probes_sit_on_sites(boot: Booter, variant: Variant, name: str) -> None:
    lines = said(boot(variant, name))["probes"]
    expected = [f"ok {what} {n}" for n in range(1, len(PROBED) + 1) for what in ("probe", "return")]
    assert lines == expected
    assert lines == said(boot(Variant.ORIGINAL, name))["probes"]


@REWRITTEN
def test_suspend_works_or_is_refused_as_before(boot: Booter, variant: Variant, name: str) -> None:
    lines = said(boot(variant, name))["suspend"]
    assert lines == said(boot(Variant.ORIGINAL, name))["suspend"]
    assert "memory: 0" in lines, "the machine slept, and woke"


@REWRITTEN
def test_kernel_starts_itself(boot: Booter, variant: Variant, name: str) -> None:
    done = boot(variant, name)
    before, after = lives(boot(Variant.ORIGINAL, name))[1], lives(done)[1]
    assert done.ending is qemu.QemuEnding.RESET, str(done)
    assert done.console.count(SUCCESSOR) == 2
    assert GuestConsole.parse(after).done, str(done)
    assert not complaints(after)
    assert compare(before, after) == []


@REWRITTEN
def test_kernel_has_nothing_new_to_complain_about(
    boot: Booter, variant: Variant, name: str
) -> None:
    original, done = boot(Variant.ORIGINAL, name), boot(variant, name)
    assert new_warnings(original.console, done.console) == []
    assert done.preface.count("vmi: paravirtual") == (variant is Variant.ON_A_ROM)
