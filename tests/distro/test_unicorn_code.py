# SPDX-License-Identifier: MIT
"""Does a distribution's kernel do the same with Unicorn's code changed and without?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.distro.conftest import NO_SELF_TESTS, DistroFinder
from tests.emu.hypervised_boot import ONE_PROCESSOR
from tests.support.unicorn_code import check_equal

pytestmark = pytest.mark.distro
NAME = "debian-686"


@pytest.mark.parametrize("mode", ["--native", "--paravirt"])
def test_kernel_leaves_the_same_memory_with_changed_code_and_without(
    distro: DistroFinder,
    distro_rewritten: KernelFinder,
    initramfs: InitramfsBuilder,
    tmp_path: Path,
    mode: str,
) -> None:
    vmlinux = distro_rewritten(NAME) if mode == "--paravirt" else distro(NAME).vmlinux
    append = f"console=ttyS0 reboot=t panic=-1 {ONE_PROCESSOR} {NO_SELF_TESTS}"
    initrd = str(initramfs("short.sh", ()))
    seen = check_equal(
        tmp_path, mode, str(vmlinux), "--initrd", initrd, "--append", append, "--limit", "120"
    )
    assert seen.report["by_guest"]
