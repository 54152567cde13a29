# SPDX-License-Identifier: MIT
"""Do Debian's kernels run to the end of verify's workload in lockstep with their originals?"""

from __future__ import annotations

import pytest

from tests.conftest import KernelFinder
from tests.distro.conftest import DistroFinder
from vmipatch.choices import LIMIT_NS
from vmipatch.image.elf import ElfImage
from vmipatch.verify import workload
from vmipatch.verify.boots import COMMAND_LINE
from vmipatch.verify.lockstep.check import LockstepOrder, check_lockstep
from vmipatch.verify.lockstep.events import EventKind
from vmipatch.verify.plan import Kernel
from vmipatch.verify.user_space import Detail

pytestmark = pytest.mark.distro


def test_three_machines_do_the_same_to_the_end_of_the_workload(
    distro: DistroFinder, distro_rewritten: KernelFinder, name: str
) -> None:
    files = (distro(name).vmlinux, distro_rewritten(name))
    was, now = (Kernel.of(ElfImage.parse(file.read_bytes(), file.name)) for file in files)
    found = check_lockstep(
        LockstepOrder(
            was.data, was.name, now.data, now.name, workload.initramfs(), COMMAND_LINE, LIMIT_NS,
            Detail.EXACT,
        )
    )  # fmt: skip
    assert found.holds, "\n".join([found.headline, *found.history])
    assert all(end is not None and end.said[-1] == workload.DONE for end in found.ends)
    assert found.compared[EventKind.CALL] > 1500 and found.compared[EventKind.CONSOLE] > 200
    assert found.flags_checked > 300_000
