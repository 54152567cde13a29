# SPDX-License-Identifier: MIT
"""Is damage to a kernel of Debian's refused by name, or does its kernel come out whole?"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.cli.campaign import campaign
from tests.cli.judge import Rewriting, check_bzimage, check_command, check_verdict
from tests.cli.test_damaged_bzimages import check_repack, damaged, places, values
from tests.distro.conftest import DistroFinder
from tests.support.sweep import each_name_and_way, targets
from vmipatch.errors import ExitCode
from vmipatch.image.elf import ElfImage
from vmipatch.image.trim import without_debug

pytestmark = pytest.mark.distro

KERNEL = "debian-686-pae"
TWINS = 16
"""Damaged ones: most are refused in seconds, others are rewritten, packed and proven."""
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


@settings(FIXTURE, max_examples=2)
@given(place=places, value=values)
def test_rewritten_alone(distro: DistroFinder, place: tuple[str, float], value: bytes) -> None:
    data = damaged(distro(KERNEL).vmlinuz.read_bytes(), place, value)
    written = check_bzimage(data)
    assert written is None or check_verdict(written, data) is ExitCode.SUCCESS


def test_sections_and_tables_of_the_debug_twin(distro: DistroFinder) -> None:
    """Without its debug sections, which are not looked at."""
    kernel = distro(KERNEL)
    twin = without_debug(ElfImage.parse(kernel.vmlinux.read_bytes(), KERNEL))
    judge = Rewriting.of(twin.data, kernel.vmlinuz.read_bytes()).judge
    campaign(twin, each_name_and_way(targets(twin))[:TWINS], 1, 0, judge)
