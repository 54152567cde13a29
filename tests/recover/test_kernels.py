# SPDX-License-Identifier: MIT
"""Of a real kernel that was shipped alone: is everything recovered what its vmlinux says?"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.recover.truth import Alone, wrong_bounds, wrong_names, wrong_words
from vmipatch.image.elf import ElfImage
from vmipatch.restore import restore
from vmipatch.scan.site import Reason
from vmipatch.verify.static import check_static

pytestmark = pytest.mark.kernels

LEAST_REWRITTEN = 0.95

Kernel = Callable[[str], Path]


@cache
def alone_of(vmlinux: Path) -> Alone:
    return Alone.of(vmlinux.with_name("bzImage"))


@pytest.fixture
def alone(kernel: Kernel) -> Alone:
    return alone_of(kernel("tiny"))


@pytest.fixture
def truth(kernel: Kernel) -> ElfImage:
    return ElfImage.parse(kernel("tiny").read_bytes(), "tiny")


def test_functions_are_where_the_vmlinux_has_them(alone: Alone, truth: ElfImage) -> None:
    assert not wrong_names(alone, truth)
    assert len(alone.found.image.symbols) > 5000


def test_tables_are_where_the_vmlinux_has_them(alone: Alone, truth: ElfImage) -> None:
    assert not wrong_bounds(alone, truth)


def test_every_word_follows_as_true_symbols_ask(alone: Alone, truth: ElfImage) -> None:
    assert not wrong_words(alone, truth)


def test_nearly_every_site_is_rewritten(alone: Alone) -> None:
    assert alone.share >= LEAST_REWRITTEN
    assert all(isinstance(site.reason, Reason) for site in alone.done.scan.sites)


def test_static_check_holds(alone: Alone) -> None:
    verdict = check_static(alone.found.image, alone.output, alone.found.fixed)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    assert verdict.counts["trampolines"] > 0
    assert verdict.counts["addresses that stay"] > 0


def test_payload_comes_back(alone: Alone) -> None:
    assert restore(alone.output).data == alone.source.data
