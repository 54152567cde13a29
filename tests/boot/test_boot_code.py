# SPDX-License-Identifier: MIT
"""Does a kernel's own boot code start what became of the kernel inside?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.conftest import COMPARABLE, check_finished
from tests.conftest import InitramfsBuilder, KernelFinder
from tests.support import qemu
from tests.support.console import compare, new_warnings
from vmipatch.choices import BootCodeChoice
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite.bzimage import rewrite_bzimage

pytestmark = [pytest.mark.qemu, pytest.mark.kernels]


def test_bzimage_does_what_it_did(
    kernel: KernelFinder, initramfs: InitramfsBuilder, tmp_path: Path
) -> None:
    vmlinux = kernel("tiny")
    original, rewritten = vmlinux.with_name("bzImage"), tmp_path / "bzImage"
    data = original.read_bytes()
    debug = ElfImage.parse(vmlinux.read_bytes(), "tiny")
    made = rewrite_bzimage(data, BzImage.parse(data), debug, choice=BootCodeChoice.KEEP)
    assert made.losses == ()
    rewritten.write_bytes(made.data)
    archive = initramfs("workload.sh", ())
    before = qemu.boot(original, archive, append=COMPARABLE)
    after = qemu.boot(rewritten, archive, append=COMPARABLE)
    check_finished(after)
    assert compare(before.console, after.console) == []
    assert new_warnings(before.console, after.console) == []
