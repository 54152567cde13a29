# SPDX-License-Identifier: MIT
"""Does a kernel of every compression come out of vmipatch as it went in, start, and come back?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.conftest import COMPARABLE
from tests.conftest import InitramfsBuilder, missing
from tests.support import kernels, qemu
from tests.support.console import GuestConsole, compare, new_warnings
from vmipatch.choices import BootCodeChoice
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.restore import Gives, restore_bzimage
from vmipatch.rewrite.bzimage import rewrite_bzimage

pytestmark = [pytest.mark.distro, pytest.mark.qemu]

MOST_GROWTH = 1.02
MORE = {"bzip2": 1.024}
"""bzip2 takes five bytes for a record of a site, whose address it cannot foresee; gzip takes four,
lzma three."""


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
    assert len(made.data) <= MORE.get(compression, MOST_GROWTH) * len(data)
    assert made.noted is not None
    assert made.noted.gives is Gives.INPUT
    assert restore_bzimage(made.data, compression).data == data
    rewritten = tmp_path / "bzImage"
    rewritten.write_bytes(made.data)
    archive = initramfs("workload.sh", ())
    before, after = (
        qemu.boot(kernel, archive, append=COMPARABLE, timeout_s=900)
        for kernel in (original, rewritten)
    )
    assert GuestConsole.parse(before.console).done, str(before)
    assert GuestConsole.parse(after.console).done, str(after)
    assert compare(before.console, after.console) == []
    assert new_warnings(before.console, after.console) == []
