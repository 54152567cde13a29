# SPDX-License-Identifier: MIT
"""Are sites filled with nops where kprobes would take a prefix for the instruction?"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from tests.rewrite.smallkernel import Branch, SmallKernel
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import RewriteOptions, rewrite
from vmipatch.tables.kprobes import EMULATES, PROBES, TABLE, probe_first_bytes
from vmipatch.verify.static import check_static

OF_2_6_16 = {PROBES: ()}
OF_2_6_33 = {PROBES: (), TABLE: (), "insn_get_prefixes": (TABLE,), "insn_get_opcode": (TABLE,)}
OF_2_6_36 = {**OF_2_6_33, "skip_prefixes": (TABLE,)}
INLINED = {**OF_2_6_33, "resume_execution": (TABLE,)}
OF_5_13 = {**OF_2_6_33, EMULATES: ()}
WITHOUT = {TABLE: (), "insn_get_prefixes": (TABLE,)}
"""Functions of kernels, and what each of them calls."""


def kernel(functions: Mapping[str, tuple[str, ...]]) -> SmallKernel:
    small = SmallKernel()
    small.text.function("site", "9c fa c3")
    for name, calls in functions.items():
        small.text.function(name, "90", *(Branch("e8", callee) for callee in calls), "c3")
    return small


@pytest.mark.parametrize(
    ("functions", "first_byte"),
    [
        (OF_2_6_16, True),
        (OF_2_6_33, True),
        (OF_2_6_36, False),
        (INLINED, False),
        (OF_5_13, False),
        (WITHOUT, False),
        ({}, False),
    ],
)
def test_padding_is_what_the_kernels_probes_understand(
    functions: Mapping[str, tuple[str, ...]], first_byte: bool
) -> None:
    image = kernel(functions).image()
    assert probe_first_bytes(image) is first_byte
    done = rewrite(image)
    wanted = Padding.NOP if first_byte else Padding.PREFIX
    assert done.data == rewrite(image, RewriteOptions(wanted)).data
    output = ElfImage.parse(done.data, "output")
    manifest = output.section_bytes(output.section_by_name[".vmi.manifest"])
    assert json.loads(manifest.rstrip(b"\0"))["padding"] == wanted.value
    assert check_static(image, output).holds
    first = output.read(output.symbols.by_name["site"].va, 1)
    assert (first == b"\x9c") is first_byte


@pytest.mark.parametrize("padding", Padding)
def test_what_the_user_asks_for_goes_before(padding: Padding) -> None:
    image = kernel(OF_2_6_16).image()
    output = ElfImage.parse(rewrite(image, RewriteOptions(padding)).data, "output")
    first = output.read(output.symbols.by_name["site"].va, 1)
    assert (first == b"\x3e") is (padding is Padding.PREFIX)
