# SPDX-License-Identifier: MIT
"""Does a rewritten kernel behave like its original, on a PC that knows nothing of VMI?"""

from __future__ import annotations

import pytest

from tests.boot.conftest import COMPARABLE, PROCESSORS, Machine, Variant, check_finished
from tests.support.console import GuestConsole, compare, new_warnings
from tests.support.qemu import QemuBoot, QemuEnding

pytestmark = [pytest.mark.qemu, pytest.mark.kernels]


@pytest.mark.parametrize("name", PROCESSORS)
def test_console_is_that_of_the_original(pc: Machine, name: str) -> None:
    original = pc(Variant.ORIGINAL, name, COMPARABLE)
    rewritten = pc(Variant.REWRITTEN, name, COMPARABLE)
    assert GuestConsole.parse(original.console).done, f"the original does not finish: {original}"
    assert rewritten.ending is QemuEnding.RESET, str(rewritten)
    assert GuestConsole.parse(rewritten.console).done, str(rewritten)
    assert compare(original.console, rewritten.console) == []
    assert new_warnings(original.console, rewritten.console) == []


@pytest.mark.parametrize("name", ["tiny", "smp-pae"])
def test_clocks_are_calibrated_without_help(pc: Machine, name: str) -> None:
    """Calibration is the first thing that hangs or goes wrong in a kernel with a bad branch."""
    check_finished(pc(Variant.REWRITTEN, name, "nokaslr"))


@pytest.mark.parametrize(
    ("option", "announced"),
    [("pti=on", "isolation: enabled"), ("pti=off", "isolation: disabled on command line")],
)
def test_page_table_isolation_holds_the_entry_code(
    pc: Machine, option: str, announced: str
) -> None:
    boot = pc(Variant.REWRITTEN, "smp-pae", f"{COMPARABLE} {option}")
    check_finished(boot)
    assert announced in boot.console, str(boot)


def test_processor_goes_and_comes_back(pc: Machine) -> None:
    boot = pc(Variant.REWRITTEN, "smp-pae", COMPARABLE, "hotplug.sh")
    original = pc(Variant.ORIGINAL, "smp-pae", COMPARABLE, "hotplug.sh")
    check_finished(boot)
    assert compare(original.console, boot.console) == []


def where(boot: QemuBoot) -> int:
    """The address of the first byte of the running kernel, as whereabouts.sh prints it."""
    line = GuestConsole.parse(boot.console).test[0]
    assert line.startswith("text "), str(boot)
    return int(line.removeprefix("text "), 16)


def test_kernel_works_at_a_random_address(pc: Machine) -> None:
    at_home = pc(Variant.REWRITTEN, "smp-pae", COMPARABLE, "whereabouts.sh")
    away = pc(Variant.REWRITTEN, "smp-pae", "", "whereabouts.sh")
    check_finished(away)
    here, there = GuestConsole.parse(at_home.console), GuestConsole.parse(away.console)
    assert here.test[1:] == there.test[1:]
    assert where(away) % 0x200000 == where(at_home) % 0x200000


@pytest.mark.slow
def test_every_random_address_works(pc: Machine) -> None:
    boots = [pc(Variant.REWRITTEN, "smp-pae", f"try={n}", "whereabouts.sh") for n in range(5)]
    for boot in boots:
        check_finished(boot)
    assert len({where(boot) for boot in boots}) > 1
