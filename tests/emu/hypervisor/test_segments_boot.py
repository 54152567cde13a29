# SPDX-License-Identifier: MIT
"""Does a process of a paravirtual kernel keep its segments, and is vm86 refused to it alone?"""

from __future__ import annotations

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.hypervised_boot import ONE_PROCESSOR, boot
from tests.support import segments
from tests.support.console import GuestConsole
from vmipatch.choices import Mode

pytestmark = [pytest.mark.kernels, pytest.mark.slow]

KILLED = 128


def test_segments_are_kept_and_only_vm86_kills_its_process(
    rewritten: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    programs = tuple((f"returns/{name}", data) for name, data in segments.PROGRAMS.items())
    initrd = str(initramfs("returns.sh", programs))
    done = boot(Mode.PARAVIRT, str(rewritten("smp-pae")), initrd, ONE_PROCESSOR)
    lines = GuestConsole.parse(done.console).test
    ends = dict(line.rsplit(": ", 1) for line in lines if ": " in line)
    assert int(ends.pop("/returns/virtual 8086")) > KILLED
    assert set(ends.values()) == {str(segments.KEPT)}
    assert len(ends) == len(segments.PROGRAMS) - 1
    assert lines[-1] == "forked 100", "the kernel works on"
