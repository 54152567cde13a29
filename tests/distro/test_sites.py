# SPDX-License-Identifier: MIT
"""Do all shapes of site of Debian's kernels do, paravirtually, what their instructions did?"""

from __future__ import annotations

import pytest

from tests.conftest import KernelFinder
from tests.verify.sites.kernels import paravirt_rom
from vmipatch.image.elf import ElfImage
from vmipatch.image.trim import without_debug
from vmipatch.verify.sites import check_sites

pytestmark = pytest.mark.distro

STATES = 20


def test_shapes_of_sites_with_their_faults(distro_rewritten: KernelFinder, name: str) -> None:
    image = without_debug(ElfImage.parse(distro_rewritten(name).read_bytes(), name))
    report = check_sites(image, paravirt_rom(), states=STATES)
    assert not report.findings, "\n".join(map(str, report.findings))
    assert report.sites > 4000
    assert report.faults > STATES
