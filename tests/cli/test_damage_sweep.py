# SPDX-License-Identifier: MIT
"""Each section and each table of a kernel, damaged in each way: an error, or a proven result?

A small part of it, of the example kernel, runs by default.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from examples.guest.build import build
from tests.cli.campaign import campaign
from tests.cli.judge import Reading, Rewriting, judge_module
from tests.conftest import KernelFinder
from tests.restore.test_module import sample
from tests.support.sweep import each_name_and_way, section_targets, targets
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import emit_list
from vmipatch.rewrite.module import rewrite_module


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


@cache
def module() -> ElfImage:
    return ElfImage.parse(sample(), "module")


@cache
def rewritten_module() -> ElfImage:
    return ElfImage.parse(rewrite_module(sample(), "module").data, "rewritten module")


def test_sample_of_modules() -> None:
    campaign(module(), each_name_and_way(list(section_targets(module()))), 1, 0, judge_module)


@pytest.mark.slow
def test_every_module() -> None:
    salt = random.getrandbits(32)
    campaign(module(), list(section_targets(module())), 10, salt, judge_module)


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["verify", "restore", "rewrite", "scan"])
def test_every_reader_of_a_rewritten_module(reader: str) -> None:
    chosen, salt = list(section_targets(rewritten_module())), random.getrandbits(32)
    judge: Callable[[bytes], str] = getattr(Reading(sample(), rewritten_module().data), reader)
    campaign(rewritten_module(), chosen, 3, salt, judge)


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
    """Contents of a bzImage, without symbols: an ELF file and the relocation list after it."""
    packed = BzImage.parse(kernel("tiny").with_name("bzImage").read_bytes())
    assert packed.relocs is not None
    whole = packed.vmlinux + emit_list(packed.relocs)
    image = replace(ElfImage.parse(packed.vmlinux, "alone"), data=whole)
    chosen = list(section_targets(image))
    campaign(image, chosen, 1, random.getrandbits(32), Rewriting.of(whole).judge)
