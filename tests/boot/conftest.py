# SPDX-License-Identifier: MIT
"""How does a boot test start a kernel? `pc(variant, name)`; each machine is started only once."""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.support import qemu
from tests.support.console import GuestConsole, complaints
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.wrap import wrap

PROCESSORS = {"tiny": 1, "tiny-os": 1, "smp-pae": 2}


class Variant(enum.Enum):
    """Which of the two kernels of a pair."""

    ORIGINAL = "original"
    REWRITTEN = "rewritten"


COMPARABLE = "nokaslr initramfs_async=0 tsc=reliable tsc_early_khz=2500000 lpj=4000000"
"""Nothing random, nothing concurrent, and no clock that a busy host can make look broken."""

Machine = Callable[..., qemu.QemuBoot]
"""pc(variant, name, append="", test="workload.sh", extra=(), machine=()) boots a kernel to its
script's end; `extra` are more files for it, `machine` more arguments of QEMU."""


@pytest.fixture(scope="session")
def pc(
    kernel: KernelFinder,
    rewritten: KernelFinder,
    initramfs: InitramfsBuilder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Machine:
    """Boot one variant of a test kernel in QEMU; the same arguments give the same boot."""
    directory = tmp_path_factory.mktemp("bzimages")

    @cache
    def bzimage(variant: Variant, name: str) -> Path:
        vmlinux = kernel(name) if variant is Variant.ORIGINAL else rewritten(name)
        image = ElfImage.parse(vmlinux.read_bytes(), name)
        output = directory / f"{name}.{variant.value}"
        output.write_bytes(wrap(image, relocation_list(image, Relocations.of(image))))
        return output

    @cache
    def boot(
        variant: Variant,
        name: str,
        append: str = "",
        test: str = "workload.sh",
        extra: tuple[tuple[str, bytes], ...] = (),
        machine: tuple[str, ...] = (),
    ) -> qemu.QemuBoot:
        return qemu.boot(
            bzimage(variant, name),
            initramfs(test, extra),
            append=append,
            smp=PROCESSORS[name],
            extra=machine,
        )

    return boot


def check_finished(boot: qemu.QemuBoot) -> None:
    """The script came to its end, the kernel rebooted, and it complained about nothing."""
    assert boot.ending is qemu.QemuEnding.RESET, f"{boot}"
    assert GuestConsole.parse(boot.console).done, f"{boot}"
    assert not complaints(boot.console)
