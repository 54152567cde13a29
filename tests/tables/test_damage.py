# SPDX-License-Identifier: MIT
"""Does every table of a damaged file end in a refusal of ours, or in what the file says?"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.damage import Damage, damages
from tests.tables.test_samples import SAMPLES, written
from vmipatch.errors import ExitCode, VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.tables.find import find_all
from vmipatch.tables.table import stay

Kernel = Callable[[str], Path]
SHARED_FIXTURES = [HealthCheck.function_scoped_fixture]


def check_read(data: bytes) -> None:
    """Read all tables of a damaged file: each holds what is emitted for it, or one is refused."""
    try:
        image = ElfImage.parse(data, "damaged")
        tables = find_all(image)
    except VmipatchError as error:
        assert error.exit_code is ExitCode.INPUT, repr(error)
        assert error.place and error.hint, str(error)
        assert "\n" not in str(error)
        return
    for table in tables:
        assert written(image, table, stay).data == data, table.name


@settings(max_examples=300)
@given(sample=st.integers(0, len(SAMPLES) - 1), damage=damages)
def test_small_images(sample: int, damage: Damage) -> None:
    check_read(damage.apply(SAMPLES[sample].image))


@cache
def load(path: Path) -> ElfImage:
    return ElfImage.parse(path.read_bytes(), path.parent.name)


@pytest.mark.kernels
@settings(max_examples=10, suppress_health_check=SHARED_FIXTURES)
@given(damage=damages)
def test_a_kernel(kernel: Kernel, damage: Damage) -> None:
    check_read(damage.apply(load(kernel("tiny"))))


@pytest.mark.kernels
@settings(max_examples=10, suppress_health_check=SHARED_FIXTURES)
@given(table=st.integers(0), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_each_table_of_a_kernel(kernel: Kernel, table: int, at: float, bit: int) -> None:
    image = load(kernel("smp-pae"))
    tables = list(find_all(image))
    hit = tables[table % len(tables)]
    data = bytearray(image.data)
    data[image.offset_of(hit.start_va) + int(at * (hit.end_va - hit.start_va))] ^= 1 << bit
    check_read(bytes(data))
