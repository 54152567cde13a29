# SPDX-License-Identifier: MIT
"""Does a stripped kernel get the names that it holds itself, and stay as it is without any?"""

from __future__ import annotations

from tests.recover.stripped import ship
from tests.recover.test_recover import small
from vmipatch.recover import with_own_symbols


def test_functions_have_their_names_and_nothing_else_changes() -> None:
    kernel = small()
    image, _ = ship(kernel)
    named = with_own_symbols(image)
    assert named.symbols.address("start_kernel") == kernel.va("start_kernel")
    for was, now in zip(image.loads, named.loads, strict=True):
        assert image.data[was.off :][: was.file_len] == named.data[now.off :][: now.file_len]


def test_kernel_without_names_stays_as_it_is() -> None:
    image, _ = ship(small(), kallsyms=None)
    assert with_own_symbols(image) is image
