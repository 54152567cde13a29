# SPDX-License-Identifier: MIT
"""Does a kernel of every compression come out of vmipatch as it went in, and start?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.conftest import COMPARABLE
from tests.conftest import InitramfsBuilder, missing
from tests.support import kernels, qemu
from tests.support.console import Console, compare, new_warnings
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite.bzimage import BootCodeChoice, rewrite_bzimage

pytestmark = [pytest.mark.distro, pytest.mark.qemu]


@pytest.mark.parametrize("compression", kernels.PACKED.compressions)
def test_kernel_is_rewritten_and_does_what_it_did(
    compression: str, initramfs: InitramfsBuilder, tmp_path: Path
) -> None:
    name = kernels.PACKED.name
    built = kernels.find(name) or missing(f"the test kernel {name}", "make test-distro")
    original = built.directory / f"bzImage.{compression}"
    data = original.read_bytes()
    read = BzImage.parse(data, compression)
    assert read.compression.label == compression
    debug = ElfImage.parse(built.vmlinux.read_bytes(), name)
    made = rewrite_bzimage(data, read, debug, choice=BootCodeChoice.KEEP)
    assert made.repeats
    assert made.losses == ()
    rewritten = tmp_path / "bzImage"
    rewritten.write_bytes(made.data)
    archive = initramfs("workload.sh", ())
    before, after = (
        qemu.boot(kernel, archive, append=COMPARABLE) for kernel in (original, rewritten)
    )
    assert Console.parse(after.console).done, str(after)
    assert compare(before.console, after.console) == []
    assert new_warnings(before.console, after.console) == []
