# SPDX-License-Identifier: MIT
"""Do real kernels come back from what is rewritten, and how long is the note?"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.conftest import KernelFinder
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.restore import restore
from vmipatch.rewrite import RewriteOptions, rewrite

pytestmark = pytest.mark.kernels

MOST_PER_CENT = 0.4
"""Of the loaded bytes; the design allows 1."""


def check(original: bytes, rewritten: bytes) -> None:
    output = ElfImage.parse(rewritten)
    restored = restore(output)
    assert hashlib.sha256(restored.data).digest() == hashlib.sha256(original).digest()
    loaded = sum(load.file_len for load in output.loads)
    assert restored.note_len * 100 <= MOST_PER_CENT * loaded


@pytest.mark.parametrize("name", ("tiny", "tiny-os", "smp-pae"))
def test_kernel_comes_back_to_the_last_byte(
    kernel: KernelFinder, rewritten: KernelFinder, name: str
) -> None:
    check(kernel(name).read_bytes(), rewritten(name).read_bytes())


def test_kernel_padded_with_nops_comes_back_to_the_last_byte(kernel: KernelFinder) -> None:
    path: Path = kernel("tiny-os")
    original = ElfImage.parse(path.read_bytes(), path.name)
    check(original.data, rewrite(original, RewriteOptions(Padding.NOP)).data)
