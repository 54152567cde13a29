# SPDX-License-Identifier: MIT
"""Do Debian's kernels come back from what is rewritten?"""

from __future__ import annotations

import hashlib

import pytest

from tests.conftest import KernelFinder
from tests.distro.conftest import DistroFinder, VmlinuzFinder
from vmipatch.image.elf import ElfImage
from vmipatch.image.trim import without_debug
from vmipatch.restore import Gives, restore, restore_bzimage

pytestmark = pytest.mark.distro

MOST_PER_CENT = 0.2
"""Of the loaded bytes of the debug twin."""
MOST_PER_CENT_OF_VMLINUZ = 0.4


def test_the_debug_twin_comes_back_but_for_its_debug_sections(
    distro: DistroFinder, distro_rewritten: KernelFinder, name: str
) -> None:
    output = ElfImage.parse(distro_rewritten(name).read_bytes(), name)
    restored = restore(output)
    original = ElfImage.parse(distro(name).vmlinux.read_bytes(), name)
    expected = without_debug(original).data
    assert restored.gives is Gives.WITHOUT_DEBUG
    assert hashlib.sha256(restored.data).digest() == hashlib.sha256(expected).digest()
    for was, now in zip(original.segments, ElfImage.parse(restored.data).segments, strict=True):
        assert was == now
        bytes_of = slice(was.off, was.off + was.file_len)
        assert restored.data[bytes_of] == original.data[bytes_of]
    loaded = sum(load.file_len for load in output.loads)
    assert restored.note_len * 100 <= MOST_PER_CENT * loaded


def test_vmlinuz_comes_back_to_the_last_byte(
    distro: DistroFinder, vmlinuz: VmlinuzFinder, name: str
) -> None:
    original = distro(name).vmlinuz.read_bytes()
    restored = restore_bzimage(vmlinuz(name).read_bytes(), name)
    assert restored.gives is Gives.INPUT
    assert hashlib.sha256(restored.data).digest() == hashlib.sha256(original).digest()
    assert restored.note_len * 100 <= MOST_PER_CENT_OF_VMLINUZ * len(original)
