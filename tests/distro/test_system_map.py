# SPDX-License-Identifier: MIT
"""Is the System.map of a distribution's kernel the one that it ships?"""

from __future__ import annotations

import pytest

from tests.distro.conftest import DistroFinder
from vmipatch.files.open import open_kernel
from vmipatch.files.system_map import system_map

pytestmark = pytest.mark.distro


def test_map_is_the_one_that_the_distribution_ships(distro: DistroFinder, name: str) -> None:
    """Line by line: what `nm -n vmlinux | scripts/mksysmap` gave when Debian built it."""
    found = distro(name)
    image = open_kernel(found.vmlinux, keep_debug=False).image
    assert system_map(image).splitlines() == found.system_map.read_text().splitlines()
