# SPDX-License-Identifier: MIT
"""Is a boot told apart in which QEMU, not the kernel, lost the flags?"""

from __future__ import annotations

import pytest

from tests.support.qemu import QemuBoot, QemuEnding, lost_its_flags


@pytest.mark.parametrize(
    ("console", "details", "lost"),
    [
        ("DS: 007b ES: 007b FS: 00d8 GS: 0000 SS: 0068 EFLAGS: c22cd06e", "", True),
        ("DS: 007b ES: 007b FS: 00d8 GS: 0000 SS: 0068 EFLAGS: 00210246", "", False),
        ("", "EIP=c12b9b49 EFL=c22dd27a [---ZA--] CPL=0", True),
        ("", "EIP=c12b9b49 EFL=003f7fd7 [DOSZAPC] CPL=0", False),
        ("Kernel panic - not syncing: Fatal exception", "", False),
    ],
)
def test_reserved_bits_of_eflags_are_the_emulators_doing(
    console: str, details: str, lost: bool
) -> None:
    assert lost_its_flags(QemuBoot(console, QemuEnding.RESET, details)) is lost
