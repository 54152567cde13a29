# SPDX-License-Identifier: MIT
"""Are the numbers of a source what it says, whatever keystone finds in its memory?"""

from __future__ import annotations

import itertools

import keystone
import pytest

from vmipatch.errors import AssemblyFailed
from vmipatch.isa.assemble import assemble

ENGINE = keystone.Ks
HEXADECIMAL = keystone.KS_OPT_SYNTAX_INTEL | keystone.KS_OPT_SYNTAX_RADIX16


def some_hexadecimal(monkeypatch: pytest.MonkeyPatch, count: int | None) -> None:
    """The first `count` engines (None: all) have the radix that keystone may find in its memory."""
    numbers = itertools.count()

    def engine(arch: int, mode: int) -> keystone.Ks:
        result = ENGINE(arch, mode)
        if count is None or next(numbers) < count:
            result.syntax = HEXADECIMAL
        return result

    monkeypatch.setattr(keystone, "Ks", engine)


@pytest.mark.parametrize("unfit", [0, 1, 5])
def test_ten_is_ten(monkeypatch: pytest.MonkeyPatch, unfit: int) -> None:
    some_hexadecimal(monkeypatch, unfit)
    assert assemble("mov edx, 11").code == bytes.fromhex("ba0b000000")


def test_engine_that_cannot_count_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    some_hexadecimal(monkeypatch, None)
    with pytest.raises(AssemblyFailed, match="hexadecimal"):
        assemble("mov edx, 11")
