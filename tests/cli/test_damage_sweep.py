# SPDX-License-Identifier: MIT
"""Each section and each table of a kernel, damaged in each way: an error, or a proven result?

A small part of it, of the example kernel, runs by default.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from examples.guest.build import build
from tests.cli.judge import Reading, Rewriting, Tally
from tests.conftest import KernelFinder
from tests.support.sweep import (
    Detail,
    Target,
    each_name_and_way,
    section_targets,
    sweep,
    targets,
)
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import emit_list


def campaign(
    image: ElfImage, chosen: list[Target], examples: int, salt: int, judge: Callable[[bytes], str]
) -> Tally:
    """Damage a file in every chosen way; fails with all complaints."""
    tally = Tally()

    def check(target: Target, detail: Detail) -> None:
        data = target.damage(image, detail)
        try:
            outcome = judge(data) if data != image.data else "no damage"
        except Exception:
            tally.note(target.name, target.way.value, "FAILED")
            raise
        tally.note(target.name, target.way.value, outcome)

    complaints = sweep(chosen, examples, salt, check)
    print(f"{image.name}, salt {salt}:\n{tally}", file=sys.stderr)
    assert not complaints, "\n".join(complaints)
    visited = {(name, way) for name, way, _ in tally.counts}
    assert visited == {(target.name, target.way.value) for target in chosen}
    return tally


@cache
def guest() -> ElfImage:
    return ElfImage.parse(build(), "guest")


@cache
def rewriting() -> Rewriting:
    return Rewriting.of(guest().data)


@cache
def rewritten() -> ElfImage:
    return ElfImage.parse(rewriting().output, "rewritten guest")


READERS = ("verify", "restore", "wrap", "rewrite", "scan", "run")
"""Methods of Reading: the commands that a rewritten kernel is given to."""


def judge_of(reader: str) -> Callable[[bytes], str]:
    judge: Callable[[bytes], str] = getattr(Reading(guest().data, rewritten().data), reader)
    return judge


def test_sample_of_rewritings() -> None:
    campaign(guest(), each_name_and_way(targets(guest())), 1, 0, rewriting().judge)


@pytest.mark.parametrize("reader", READERS)
def test_sample_of_rewritten_kernels(reader: str) -> None:
    salt = READERS.index(reader)
    chosen = each_name_and_way(list(section_targets(rewritten())), salt)
    campaign(rewritten(), chosen, 1, salt, judge_of(reader))


@pytest.mark.slow
def test_every_rewriting_of_the_example_kernel() -> None:
    salt = random.getrandbits(32)
    campaign(guest(), targets(guest()), 2, salt, rewriting().judge)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_the_rewritten_example_kernel(reader: str) -> None:
    salt = random.getrandbits(32)
    campaign(rewritten(), targets(rewritten()), 1, salt, judge_of(reader))


@pytest.mark.slow
@pytest.mark.kernels
@pytest.mark.parametrize("name", ["tiny", "smp-pae"])
def test_every_rewriting_of_a_kernel(kernel: KernelFinder, name: str) -> None:
    image = ElfImage.parse(kernel(name).read_bytes(), name)
    judge = Rewriting.of(image.data).judge
    campaign(image, targets(image), 1, random.getrandbits(32), judge)


@pytest.mark.slow
@pytest.mark.kernels
def test_every_debug_twin_of_a_bzimage(kernel: KernelFinder) -> None:
    vmlinux = kernel("tiny")
    twin = ElfImage.parse(vmlinux.read_bytes(), "twin")
    judge = Rewriting.of(twin.data, vmlinux.with_name("bzImage").read_bytes()).judge
    campaign(twin, targets(twin), 1, random.getrandbits(32), judge)


@pytest.mark.slow
@pytest.mark.kernels
def test_every_kernel_alone(kernel: KernelFinder) -> None:
    """What a bzImage holds, without symbols: an ELF file and the relocation list behind it."""
    packed = BzImage.parse(kernel("tiny").with_name("bzImage").read_bytes())
    assert packed.relocs is not None
    whole = packed.vmlinux + emit_list(packed.relocs)
    image = replace(ElfImage.parse(packed.vmlinux, "alone"), data=whole)
    chosen = list(section_targets(image))
    campaign(image, chosen, 1, random.getrandbits(32), Rewriting.of(whole).judge)
