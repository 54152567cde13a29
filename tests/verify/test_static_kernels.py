# SPDX-License-Identifier: MIT
"""Are rewritten kernels proven, and quickly enough to be a step of a build?"""

from __future__ import annotations

import time

import pytest

from tests.conftest import KernelFinder
from vmipatch.image.elf import ElfImage
from vmipatch.verify.static import check_static

pytestmark = pytest.mark.kernels

SECONDS_FOR_A_MILLION = 30.0
"""For each million instructions, on a machine that does other things as well."""


@pytest.mark.parametrize("name", ["tiny", "tiny-os", "smp-pae"])
def test_rewritten_kernel_is_proven(
    kernel: KernelFinder, rewritten: KernelFinder, name: str
) -> None:
    original = ElfImage.parse(kernel(name).read_bytes(), name)
    output = ElfImage.parse(rewritten(name).read_bytes(), f"{name}.vmi")
    start = time.process_time()
    verdict = check_static(original, output)
    seconds = time.process_time() - start
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    assert verdict.counts["instructions"] > 300_000
    assert verdict.counts["records"] > 2_000
    assert seconds < SECONDS_FOR_A_MILLION * max(verdict.counts["instructions"] / 1e6, 0.5)


def test_output_of_another_kernel_is_not_proven(
    kernel: KernelFinder, rewritten: KernelFinder
) -> None:
    original = ElfImage.parse(kernel("tiny-os").read_bytes(), "tiny-os")
    output = ElfImage.parse(rewritten("tiny").read_bytes(), "tiny.vmi")
    assert not check_static(original, output).holds
