# SPDX-License-Identifier: MIT
"""Is a damaged vmlinuz of Debian's refused by name, or does its kernel come out whole?"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.cli.judge import check_command
from tests.cli.test_damaged_bzimages import check_repack, damaged, places, values
from tests.distro.conftest import DistroFinder

pytestmark = pytest.mark.distro

KERNEL = "debian-686-pae"
FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(FIXTURE, max_examples=60)
@given(place=places, value=values)
def test_its_kernel_put_into_it_again(
    distro: DistroFinder, place: tuple[str, float], value: bytes
) -> None:
    check_repack(damaged(distro(KERNEL).vmlinuz.read_bytes(), place, value))


@settings(FIXTURE, max_examples=3)
@given(place=places, value=values)
def test_rewritten_with_its_debug_twin(
    distro: DistroFinder, place: tuple[str, float], value: bytes
) -> None:
    kernel = distro(KERNEL)
    data = damaged(kernel.vmlinuz.read_bytes(), place, value)
    check_command(data, "rewrite", "--debug", str(kernel.vmlinux))
