# SPDX-License-Identifier: MIT
"""Is a rewritten kernel on Xen what it is on the bare machine? Boots, for make test-xen."""

from __future__ import annotations

import pytest

from tests.support import xens
from tests.support.console import GuestConsole, compare
from tests.xen.machine import XenBoot
from tests.xen.rules import unexplained
from tests.xen.subjects import (
    Rewritten,
    check_sound,
    disk,
    hypervisor,
    on_a_pc,
    on_xen,
    pressure_disk,
    programs_disk,
    rewritten,
)

pytestmark = pytest.mark.xen

MEMORY = [(384, 128), (512, 128), (768, 128), (1024, 256)]
"""MiB of the machine and of domain 0."""
KERNELS = ("smp-pae", "debian-686-pae")
SIGILL, SIGSEGV = 4, 11
OTHERWISE = {
    "00000001": "a signal frame with a bad CS: Xen reports the fault of the return at the process",
    "00000002": "with a bad SS",
    "00000003": "with the kernel's CS",
    "0000000f": "SYSCALL: Xen has switched it on, and it is not the kernel's",
}
"""Rows of programs.c that end with SIGSEGV on Xen, and with SIGILL on a PC."""


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Rewritten:
    return rewritten(request.param)


@pytest.fixture(params=list(xens.RECIPES))
def xen(request: pytest.FixtureRequest) -> xens.Xen:
    return hypervisor(request.param)


def check(kernel: Rewritten, seen: XenBoot) -> None:
    check_sound(seen)
    native = on_a_pc(kernel, disk())
    here, there = GuestConsole.parse(native), GuestConsole.parse(seen.console)
    assert here.done
    assert there.done
    assert there.test == here.test
    assert unexplained(compare(native, seen.console)) == []


@pytest.mark.parametrize("attempt", range(5))
def test_kernel_does_on_xen_what_it_does_on_a_pc(
    xen: xens.Xen, kernel: Rewritten, attempt: int
) -> None:
    check(kernel, on_xen(xen, kernel, disk()))


@pytest.mark.parametrize(("machine", "domain"), MEMORY)
def test_kernel_runs_wherever_its_memory_lies(machine: int, domain: int) -> None:
    kernel = rewritten("smp-pae")
    xen = hypervisor("xen-release")
    check(kernel, on_xen(xen, kernel, disk(), machine=machine, domain=domain))


@pytest.mark.parametrize("machine", [1024, 2048])
def test_memory_above_what_linux_maps_is_refused_in_one_line(machine: int) -> None:
    seen = on_xen(hypervisor("xen-release"), rewritten("smp-pae"), disk(), machine=machine)
    stops = [line for line in seen.xen_console.splitlines() if "vmi: stop:" in line]
    assert len(stops) == 1
    assert "give Xen a smaller mem=" in stops[0]
    assert seen.console == ""


def test_processes_that_misbehave_end_as_they_do_on_a_pc(xen: xens.Xen, kernel: Rewritten) -> None:
    seen = on_xen(xen, kernel, programs_disk())
    check_sound(seen)
    native = GuestConsole.parse(on_a_pc(kernel, programs_disk())).test
    ended = [line.split() for line in native]
    expected = [
        [number, f"{SIGSEGV:08x}" if number in OTHERWISE else status] for number, status in ended
    ]
    assert all(status == f"{SIGILL:08x}" for number, status in ended if number in OTHERWISE)
    assert [line.split() for line in GuestConsole.parse(seen.console).test] == expected
    assert len(expected) == 24


def test_little_memory_and_many_processes_are_no_matter(xen: xens.Xen) -> None:
    kernel = rewritten("smp-pae")
    seen = on_xen(xen, kernel, pressure_disk())
    check_sound(seen)
    there = GuestConsole.parse(seen.console)
    assert there.done
    assert there.test == GuestConsole.parse(on_a_pc(kernel, pressure_disk())).test
    assert there.test[-1] == "files"
