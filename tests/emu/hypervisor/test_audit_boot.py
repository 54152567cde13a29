# SPDX-License-Identifier: MIT
"""Does a rewritten kernel execute any instruction that CPL 1 would silently get wrong?"""

from __future__ import annotations

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.hypervised_boot import ONE_PROCESSOR, boot
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor.exits import ExitKind

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("tiny", "short.sh"),
        pytest.param("tiny", "workload.sh", marks=pytest.mark.slow),
        pytest.param("tiny-os", "workload.sh", marks=pytest.mark.slow),
        pytest.param("smp-pae", "workload.sh", marks=pytest.mark.slow),
    ],
)
def test_no_unprivileged_sensitive_instruction_is_left(
    rewritten: KernelFinder, initramfs: InitramfsBuilder, name: str, script: str
) -> None:
    append = ONE_PROCESSOR if name == "smp-pae" else ""
    done = boot(Mode.AUDIT, str(rewritten(name)), str(initramfs(script, ())), append)
    done.check()
    assert not [finding for finding in done.findings if finding.is_unprivileged]
    assert done.result.statistics.traps[ExitKind.ROM] > 1000, "the audit looked"
