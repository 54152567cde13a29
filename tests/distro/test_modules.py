# SPDX-License-Identifier: MIT
"""Do rewritten modules load, work and go in every world, and are others refused where they must be?

Debian's 686 with what its package has, and smp-pae with modules of its own build.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot.conftest import COMPARABLE, check_finished
from tests.conftest import InitramfsBuilder, KernelFinder, missing
from tests.distro.conftest import DistroFinder
from tests.emu.hypervised_boot import ONE_PROCESSOR, HypervisedBoot, boot
from tests.support import kernels, modules, qemu
from tests.support.console import GuestConsole, complaints
from tests.support.roms import rom_arguments
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.report import Ending
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.wrap import wrap
from vmipatch.rewrite.module import rewrite_module
from vmipatch.rom import build_rom

pytestmark = pytest.mark.distro

DEBIAN, OWN = "debian-686", "smp-pae"
HASHES = ("algif_hash", "blake2b_generic", "cmac", "aes_ti")
LOADED = {
    DEBIAN: ("crc32c_generic", "loop", "ext4", *HASHES, "dummy", "tun", "cpuid", "parport_pc"),
    OWN: ("cryptomgr", *HASHES, "dummy", "msr", "cpuid", "parport_pc", "preemptirq_delay_test"),
}
CHANGED = {
    DEBIAN: {"ext4", "aes_ti", "tun", "cpuid", "parport_pc"},
    OWN: {"aes_ti", "cpuid", "parport", "parport_pc", "preemptirq_delay_test"},
}
"""Those that hold sites."""
ARGUMENTS = {"preemptirq_delay_test": "test_mode=irq delay=500 burst_size=2"}
REFUSED = {DEBIAN: ("loop", "cpuid", "aes_ti"), OWN: ("dummy", "cpuid", "preemptirq_delay_test")}
"""None needs another. The first holds nothing that would be silently wrong, the others do."""
NOTHING_ELSE = "norandmaps cryptomgr.notests"
MEMORY_MIB = 512


@dataclass(frozen=True, slots=True)
class Subject:
    """A kernel, original and rewritten, and the original modules that it can load."""

    name: str
    original: Path
    rewritten: Path
    tree: modules.ModuleTree


@pytest.fixture(params=(DEBIAN, OWN))
def subject(
    request: pytest.FixtureRequest,
    distro: DistroFinder,
    distro_rewritten: KernelFinder,
    kernel: KernelFinder,
    rewritten: KernelFinder,
) -> Subject:
    name = str(request.param)
    if name == DEBIAN:
        tree = modules.ModuleTree.of(distro(name).modules)
        return Subject(name, distro(name).vmlinux, distro_rewritten(name), tree)
    recipe = kernels.MODULES.name
    built = kernels.find(recipe) or missing(recipe, f"python -m tests.kernels {recipe}")
    return Subject(name, kernel(name), rewritten(name), modules.ModuleTree.of(built.modules))


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, bytes], ...]:
    """The files that the modules work on."""
    return tuple(modules.materials(tmp_path_factory.mktemp("materials")))


Archive = Callable[..., Path]
"""archive(script, names, is_rewritten): an initial file system with modules."""


@pytest.fixture
def archive(
    subject: Subject, initramfs: InitramfsBuilder, materials: tuple[tuple[str, bytes], ...]
) -> Archive:
    def change(data: bytes, name: str) -> bytes:
        return rewrite_module(data, name).data

    def make(script: str, names: tuple[str, ...], is_rewritten: bool) -> Path:
        way = change if is_rewritten else None
        files = tuple(modules.files(subject.tree, names, ARGUMENTS, way))
        return initramfs(script, (*materials, *files))

    return make


Booter = Callable[[Mode, bool], HypervisedBoot]


@pytest.fixture
def emulated(subject: Subject, archive: Archive) -> Booter:
    """Boots kernel and modules, both original or both rewritten, in our PC."""

    def start(mode: Mode, is_rewritten: bool) -> HypervisedBoot:
        vmlinux = subject.rewritten if is_rewritten else subject.original
        initrd = archive("modules.sh", LOADED[subject.name], is_rewritten)
        return boot(mode, str(vmlinux), str(initrd), f"{ONE_PROCESSOR} {NOTHING_ELSE}")

    return start


PcBooter = Callable[..., qemu.QemuBoot]


@pytest.fixture
def pc(subject: Subject, archive: Archive, tmp_path: Path) -> PcBooter:
    """Boots kernel and modules, each original or rewritten, in QEMU."""

    def start(
        kernel_is_rewritten: bool,
        modules_are_rewritten: bool,
        rom: bytes | None = None,
        script: str = "modules.sh",
        names: tuple[str, ...] = (),
    ) -> qemu.QemuBoot:
        vmlinux = subject.rewritten if kernel_is_rewritten else subject.original
        image = ElfImage.parse(vmlinux.read_bytes(), subject.name)
        bzimage = tmp_path / "bzImage"
        bzimage.write_bytes(wrap(image, relocation_list(image, Relocations.of(image))))
        initrd = archive(script, names or LOADED[subject.name], modules_are_rewritten)
        machine = () if rom is None else rom_arguments(rom, tmp_path)
        append = f"{COMPARABLE} {NOTHING_ELSE} audit=0"
        memory = MEMORY_MIB
        return qemu.boot(
            bzimage, initrd, append=append, memory_mib=memory, extra=machine, timeout_s=900
        )

    return start


def printed(done: HypervisedBoot | qemu.QemuBoot) -> tuple[str, ...]:
    return GuestConsole.parse(done.console).test


def check_work(subject: Subject, lines: tuple[str, ...]) -> None:
    """The modules came, did what they are there for, and went."""
    order = subject.tree.in_order(LOADED[subject.name])
    for name in order:
        assert f"loaded {name}" in lines, lines
        assert f"unloaded {name}" in lines, lines
    assert set(modules.expected_hashes()) <= set(lines), lines
    assert lines[-1].strip() == "0", "none is left"
    if subject.name == DEBIAN:
        assert modules.HELLO in lines
        assert modules.md5_of_numbers() in lines
        assert "sent" in lines


def test_modules_with_sites_are_among_them(subject: Subject) -> None:
    order = subject.tree.in_order(LOADED[subject.name])
    changed = {n for n in order if rewrite_module(subject.tree.read(n), n).is_changed}
    assert changed >= CHANGED[subject.name]


def test_modules_work_paravirtually_as_they_do_natively(subject: Subject, emulated: Booter) -> None:
    paravirtual, native = emulated(Mode.PARAVIRT, True), emulated(Mode.NATIVE, False)
    paravirtual.check()
    check_work(subject, printed(paravirtual))
    assert native.result.ending is Ending.RESET_BY_FAULT, f"{native.result}"
    assert printed(native) == printed(paravirtual)
    for name in CHANGED[subject.name]:
        assert f"vmi: module {name}, " in paravirtual.console
    assert "refused" not in paravirtual.console


def test_audit_of_loaded_modules_is_clean(subject: Subject, emulated: Booter) -> None:
    done = emulated(Mode.AUDIT, True)
    done.check()
    check_work(subject, printed(done))
    assert done.result.statistics.traps[ExitKind.ROM] > 100_000, "the audit looked"
    assert not [finding for finding in done.findings if finding.is_unprivileged]


@pytest.mark.qemu
@pytest.mark.parametrize("rom", [None, Flavor.NATIVE], ids=["no ROM", "native ROM"])
def test_modules_work_in_qemu(subject: Subject, pc: PcBooter, rom: Flavor | None) -> None:
    done = pc(True, True, None if rom is None else build_rom(rom).data)
    check_finished(done)
    check_work(subject, printed(done))
    assert ("vmi: module cpuid, " in done.console) is (rom is not None)
    original = pc(False, False)
    check_work(subject, printed(original))
    assert printed(done) == printed(original)


@pytest.mark.qemu
def test_original_kernel_takes_rewritten_modules(subject: Subject, pc: PcBooter) -> None:
    done = pc(False, True)
    check_finished(done)
    check_work(subject, printed(done))


def test_original_modules_are_refused_only_where_they_must_be(
    subject: Subject, archive: Archive
) -> None:
    harmless, *silent = REFUSED[subject.name]
    initrd = archive("refusals.sh", REFUSED[subject.name], False)
    options = f"{ONE_PROCESSOR} {NOTHING_ELSE}"
    done = boot(Mode.PARAVIRT, str(subject.rewritten), str(initrd), options)
    done.check()
    assert f"{harmless} came and went" in printed(done)
    for name in silent:
        assert f"{name} came and went" not in printed(done)
        assert f"vmi: module {name} refused: not rewritten, silently wrong here" in done.console
    native = boot(Mode.NATIVE, str(subject.rewritten), str(initrd), options)
    for name in REFUSED[subject.name]:
        assert f"{name} came and went" in printed(native)
    assert not complaints(native.console)
