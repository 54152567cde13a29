# SPDX-License-Identifier: MIT
"""Are the files of one of Debian's kernels in the cache parts of one kernel?"""

from __future__ import annotations

import re
import struct

import pytest

from tests.distro.conftest import DistroFinder
from vmipatch.image.elf import ElfImage

pytestmark = pytest.mark.distro

KERNEL_VERSION_OFF = 0x20E
"""Documentation/arch/x86/boot.rst: kernel_version, relative to 0x200."""


def test_all_parts_are_of_one_kernel(distro: DistroFinder, name: str) -> None:
    kernel = distro(name)
    setup = kernel.vmlinuz.read_bytes()[:0x8000]
    (version_off,) = struct.unpack_from("<H", setup, KERNEL_VERSION_OFF)
    release = setup[0x200 + version_off :].split(b" ", 1)[0].decode()
    assert re.fullmatch(r"6\.1\.0-\d+-686(-pae)?", release)

    vmlinux = ElfImage.parse(kernel.vmlinux.read_bytes(), name)
    banner = vmlinux.symbols.address("linux_banner")
    assert banner is not None
    assert vmlinux.read(banner, 64).startswith(f"Linux version {release} ".encode())
    assert f"{banner:08x} D linux_banner" in kernel.system_map.read_text()

    pae = "CONFIG_X86_PAE=y" in kernel.config.read_text().splitlines()
    assert pae == release.endswith("-pae")
    module = next(kernel.modules.rglob("*.ko")).read_bytes()
    assert f"vermagic={release} SMP ".encode() in module
