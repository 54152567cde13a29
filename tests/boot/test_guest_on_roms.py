# SPDX-License-Identifier: MIT
"""Does the example guest, rewritten, observe on a ROM what it observes without one?

It executes every class of sensitive instruction and says what it saw: registers, flags, faults.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.guest import build
from tests.support.qemu import QemuEnding, boot
from tests.support.roms import rom_arguments
from vmipatch.choices import Flavor
from vmipatch.image.elf import ElfImage
from vmipatch.image.wrap import wrap
from vmipatch.rewrite import rewrite
from vmipatch.rom import build_rom

pytestmark = pytest.mark.qemu


def observations(image: ElfImage, directory: Path, rom: bytes | None) -> list[str]:
    """The lines that a guest prints up to its end."""
    kernel, nothing = directory / "bzImage", directory / "initrd"
    kernel.write_bytes(wrap(image, None))
    nothing.write_bytes(bytes(4))
    machine = () if rom is None else rom_arguments(rom, directory)
    done = boot(kernel, nothing, extra=machine, timeout_s=60)
    assert done.ending is QemuEnding.RESET, f"{done}"
    lines = done.console[done.console.find("GUEST i386") :].splitlines()
    assert lines[-1] == "GUEST done", f"{done}"
    return lines


@pytest.mark.parametrize("flavor", [None, Flavor.NATIVE, Flavor.TRACE])
def test_rewritten_guest_observes_what_the_original_observes(
    tmp_path: Path, flavor: Flavor | None
) -> None:
    original = ElfImage.parse(build(), "guest")
    rewritten = ElfImage.parse(rewrite(original).data, "rewritten guest")
    rom = None if flavor is None else build_rom(flavor).data
    assert observations(rewritten, tmp_path, rom) == observations(original, tmp_path, None)
