# SPDX-License-Identifier: MIT
"""Does `make VMIPATCH=1` give a rewritten kernel, modules and packages, whatever the tree keeps?"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import InitramfsBuilder
from tests.pipelines.chroot import logged
from tests.pipelines.conftest import log_of
from tests.pipelines.kbuild import COMMAND, HOOKED, IMAGE, Builder
from tests.support import qemu
from tests.support.roms import rom_arguments
from tests.support.signing import END, unsigned
from vmipatch.choices import Flavor
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import has_relocations
from vmipatch.rom import build_rom

pytestmark = pytest.mark.pipelines

SIGNED = Path(__file__).with_name("signed.config")
LIST = "arch/x86/boot/compressed/vmlinux.relocs"
UNSTRIPPED = "vmlinux.unstripped"
LEFT = {
    "gcc-5.10-tiny": "vmlinux",
    "gcc-6.12-tiny": LIST,
    "gcc-7.2-tiny": UNSTRIPPED,
}
"""From a kernel of the corpus to the file in which its build leaves the relocations."""
MODULES = ("cpuid", "msr")
SCRIPT = b"""
for kind in signed unsigned; do
    insmod /modules/$kind.ko && rmmod cpuid && echo "$kind came and went"
done
"""


def parsed(path: Path) -> ElfImage:
    return ElfImage.parse(path.read_bytes(), path.name)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def boot(image: Path, initrd: Path, scratch: Path, log: Path, append: str = "") -> qemu.QemuBoot:
    """Start on a PC with the native ROM."""
    rom = rom_arguments(build_rom(Flavor.NATIVE).data, scratch)
    done = qemu.boot(image, initrd, append=append, extra=rom)
    with log.open("a") as out:
        out.write(f"{done.preface}{done}\n")
    assert done.ending is qemu.QemuEnding.RESET, str(done)
    return done


def check_image(builder: Builder) -> None:
    """It is proven, its certificate is its own, and it comes back as what Kbuild made."""
    image, original = builder.file(IMAGE), builder.file("bzImage.back")
    proof = json.loads(Path(f"{image}.certificate.json").read_text())
    assert digest(image) in json.dumps(proof)
    logged([str(COMMAND), "restore", str(image), "-o", str(original)], builder.log)
    assert digest(original) == digest(Path(f"{image}.orig"))
    check_map(builder.file("System.map"), builder)


def check_map(system_map: Path, builder: Builder) -> None:
    """It has the addresses of the rewritten kernel, and not those of the linked one."""
    name = "rest_init"
    (line,) = (line for line in system_map.read_text().splitlines() if line.endswith(f" {name}"))
    before, after = (
        next(each.va for each in parsed(builder.file(file)).symbols if each.name == name)
        for file in ("vmlinux", "vmlinux.vmi")
    )
    assert int(line.split()[0], 16) == after != before


@pytest.mark.qemu
@pytest.mark.parametrize("name", LEFT)
def test_bzimage_is_rewritten_wherever_the_relocations_are(
    name: str, scratch: Path, initramfs: InitramfsBuilder
) -> None:
    log = log_of(f"kbuild-{name}")
    builder = Builder.of(name, "", scratch, log)
    image = builder.image()
    assert has_relocations(parsed(builder.file("vmlinux"))) is (LEFT[name] == "vmlinux")
    assert builder.file(LEFT[name]).is_file()
    assert builder.file(UNSTRIPPED).exists() is (LEFT[name] == UNSTRIPPED)
    check_image(builder)
    done = boot(image, initramfs("short.sh", ()), scratch, log)
    assert re.search(r"vmi: .* sites patched", done.preface + done.console), str(done)


ImageState = tuple[str, int]
"""SHA-256 of a file, and when it was written."""


def state(image: Path) -> ImageState:
    return digest(image), image.stat().st_mtime_ns


@dataclass(frozen=True, slots=True)
class Installed:
    """Linux 6.1 with modules: built, installed and packed with the hook."""

    builder: Builder
    made: tuple[ImageState, ImageState]
    """The bzImage after the first make, and after a second that had nothing to do."""
    modules: Path
    """The directory of modules_install."""
    package: Path
    """The files of the image package of bindeb-pkg."""


@pytest.fixture(scope="module")
def installed(scratch: Path) -> Installed:
    builder = Builder.of("clang-6.1-tiny", SIGNED.read_text(), scratch, log_of("kbuild-6.1"))
    builder.make("bzImage", "modules", "--silent", *HOOKED)
    first = state(builder.file(IMAGE))
    # bindeb-pkg gives the kernel another number, so that a make after it links once more.
    made = first, state(builder.image())
    target = builder.objects.parent / "target"
    builder.make("modules_install", f"INSTALL_MOD_PATH={target}", *HOOKED)
    builder.make("bindeb-pkg", "DPKG_FLAGS=-d", "KDEB_PKGVERSION=1", *HOOKED)
    (deb,) = builder.objects.parent.glob("linux-image-*_1_i386.deb")
    package = builder.objects.parent / "package"
    logged(["dpkg-deb", "-x", str(deb), str(package)], builder.log)
    (modules,) = target.glob("lib/modules/*")
    return Installed(builder, made, modules, package)


def test_image_with_modules_is_proven(installed: Installed) -> None:
    check_image(installed.builder)


def test_a_second_make_changes_nothing(installed: Installed) -> None:
    first, second = installed.made
    assert second == first


@pytest.mark.parametrize("name", MODULES)
def test_installed_module_is_rewritten_then_signed(installed: Installed, name: str) -> None:
    (module,) = installed.modules.rglob(f"{name}.ko")
    plain = installed.builder.file(f"arch/x86/kernel/{name}.ko")
    assert module.read_bytes().endswith(END), "it is signed last"
    assert ".vmi.annotation" in parsed(module).section_by_name
    assert ".vmi.annotation" not in parsed(plain).section_by_name
    verify = ["verify", str(module), "--original", str(plain)]
    assert "holds" in logged([str(COMMAND), *verify], installed.builder.log)


def test_package_holds_the_rewritten_files(installed: Installed) -> None:
    (kernel,) = installed.package.glob("boot/vmlinuz-*")
    (system_map,) = installed.package.glob("boot/System.map-*")
    assert digest(kernel) == digest(installed.builder.file(IMAGE))
    check_map(system_map, installed.builder)
    for name in MODULES:
        (module,) = installed.package.rglob(f"{name}.ko")
        assert ".vmi.annotation" in parsed(module).section_by_name


@pytest.mark.qemu
def test_kernel_that_enforces_signatures_takes_what_was_signed_last(
    installed: Installed, scratch: Path, initramfs: InitramfsBuilder
) -> None:
    (module,) = installed.modules.rglob("cpuid.ko")
    signed = module.read_bytes()
    files = (
        *(("modules/signed.ko", signed), ("modules/unsigned.ko", unsigned(signed))),
        ("test", SCRIPT),
    )
    done = boot(
        installed.builder.file(IMAGE),
        initramfs("short.sh", files),
        scratch,
        installed.builder.log,
        "module.sig_enforce=1",
    )
    assert "signed came and went" in done.console.splitlines(), str(done)
    assert "unsigned came and went" not in done.console, str(done)
    assert "vmi: module cpuid, " in done.console
