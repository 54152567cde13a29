# SPDX-License-Identifier: MIT
"""Does what adds code to a kernel, or changes it, work on Xen? Modules, tracers, probes, labels.

Page tables with the kernel's text are followed like any: text is written through a mapping of its
own, or through fixed mappings, and breakpoints come by the trap table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.test_instrumentation import PROBED, places
from tests.conftest import missing
from tests.distro.test_modules import ARGUMENTS, CHANGED, DEBIAN, LOADED
from tests.support import initramfs, kernels, modules, xens
from tests.support.console import GuestConsole
from tests.xen.subjects import check_sound, disk, hypervisor, on_a_pc, on_xen, rewritten
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite.module import rewrite_module

pytestmark = pytest.mark.xen

PAE = "debian-686-pae"
QUIET = "norandmaps cryptomgr.notests"
SCRIPTS = ("instrument", "tracers", "tracepoints", "probes")
PROCESSOR = "== processor"
"""After it modules.sh prints what CPUID says, by the module cpuid."""


def module_disk(tree: modules.ModuleTree, scratch: Path, *, is_rewritten: bool) -> bytes:
    """An initial file system with Debian's modules and what they work on."""

    def change(data: bytes, name: str) -> bytes:
        return rewrite_module(data, name).data

    scratch.mkdir()
    files = dict(modules.materials(scratch))
    files |= modules.files(tree, LOADED[DEBIAN], ARGUMENTS, change if is_rewritten else None)
    return disk(files | {"test": (initramfs.SOURCES / "modules.sh").read_bytes()})


def test_modules_come_work_and_go_as_on_a_pc(tmp_path: Path) -> None:
    found = kernels.find_distro(PAE) or missing(PAE, f"python -m tests.kernels {PAE}")
    tree, kernel = modules.ModuleTree.of(found.modules), rewritten(PAE)
    here = module_disk(tree, tmp_path / "rewritten", is_rewritten=True)
    there = module_disk(tree, tmp_path / "original", is_rewritten=False)
    seen = on_xen(hypervisor("xen-release"), kernel, here, append=QUIET, domain=256, machine=1024)
    check_sound(seen)
    lines = list(GuestConsole.parse(seen.console).test)
    native = list(GuestConsole.parse(on_a_pc(kernel, there, QUIET)).test)
    at = native.index(PROCESSOR) + 1
    assert lines[at] != native[at], "Xen's processor has fewer leaves"
    assert lines[:at] + lines[at + 1 :] == native[:at] + native[at + 1 :]
    assert {f"unloaded {name}" for name in tree.in_order(LOADED[DEBIAN])} < set(lines)
    assert lines[-1].strip() == "0", "none is left"
    for name in CHANGED[DEBIAN]:
        assert f"vmi: module {name}, " in seen.console


@pytest.mark.parametrize("name", list(xens.RECIPES))
def test_code_that_is_changed_does_what_it_should(name: str) -> None:
    kernel = rewritten("smp-pae")
    probed = places(ElfImage.parse(kernel.data, kernel.name), PROBED)
    files = {f"{name}.sh": (initramfs.SOURCES / f"{name}.sh").read_bytes() for name in SCRIPTS}
    files |= {"places": probed, "test": (Path(__file__).parent / "changes.sh").read_bytes()}
    seen = on_xen(hypervisor(name), kernel, disk(files))
    check_sound(seen)
    lines = GuestConsole.parse(seen.console).test
    assert [line for line in lines if not line.startswith(("ok ", "== "))] == []
    assert len(lines) == 3 + 1 + 5 + 2 * len(PROBED)
