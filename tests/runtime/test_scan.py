# SPDX-License-Identifier: MIT
"""Does the kernel's own walk through a module find what the decoder finds?"""

from __future__ import annotations

import random
from functools import cache
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import missing
from tests.runtime.bare import CODE_VA, DATA_VA, STACK_VA, Bare
from tests.support.kernels import find_distro
from vmipatch.image.module import Module
from vmipatch.isa.assemble import assemble
from vmipatch.isa.classify import classify
from vmipatch.isa.decode import decode
from vmipatch.isa.forms import FORMS, Form, WantedModrm
from vmipatch.runtime.build import opcode_tables


@cache
def walker() -> Bare:
    package = resources.files("vmipatch.runtime")
    parts = [package.joinpath(name).read_text(encoding="utf-8") for name in ("job.S", "scan.S")]
    return Bare(assemble("\n".join([*parts, opcode_tables()]), CODE_VA))


def found_by_kernel(code: bytes) -> int | None:
    """Offset of the first instruction that is silently wrong at CPL 1, as scan.S tells it."""
    cpu = walker()
    cpu.write(DATA_VA, code + b"\x9c" * 16)  # after the end nothing counts
    after = cpu.call(
        "vmi_scan", esi=DATA_VA, edx=DATA_VA + len(code), ebp=STACK_VA, ebx=0xFFFFFFFF,
        ecx=0xFFFFFFFF, edi=0xFFFFFFFF,
    )  # fmt: skip
    return after["eax"] - DATA_VA if after["eax"] else None


def found_by_decoder(code: bytes) -> int | None:
    stream = decode(code, DATA_VA)
    for index in stream.sensitive_candidates.tolist():
        form = classify(stream.bytes_at(index))
        if form is not None and form.is_unprivileged:
            return int(stream.starts[index]) - DATA_VA
    return None


UNPRIVILEGED = [form for form in FORMS if form.is_unprivileged]


@pytest.mark.parametrize("form", UNPRIVILEGED, ids=lambda form: form.name)
def test_each_unprivileged_form_is_found(form: Form) -> None:
    for mod in (0xC0, 0x00) if form.operand is WantedModrm.ANY else (0x00,):
        modrm = b"" if form.operand is WantedModrm.NONE else bytes((mod | (form.reg or 0) << 3,))
        code = bytes.fromhex("8d742600 c3") + form.opcode + modrm + b"\xc3"
        assert found_by_kernel(code) == 5


@pytest.mark.parametrize("form", [f for f in FORMS if not f.is_unprivileged], ids=lambda f: f.name)
def test_no_other_sensitive_form_is(form: Form) -> None:
    reg = (form.reg or 0) << 3
    modrm = {WantedModrm.NONE: b"", WantedModrm.MEMORY: bytes((reg,))}.get(
        form.operand, bytes((0xC0 | reg,))
    )
    prefix = b"" if form.prefix is None else bytes((form.prefix,))
    assert found_by_kernel(prefix + form.opcode + modrm + bytes(8)) is None


PIECES = [
    bytes.fromhex(piece)
    for piece in """
        9c | 9d | cf | 0e | 16 | 0fa2 | 0f0108 | 0f0100 | 0f00c0 | 0f00c8 | 0f01e0 | 8cc8 | 668cd0
        b8 9c9d9c9d | 66b8 9c9d | c70424 9c9c9c9c | 66c70424 9c9d | 68 9c9c9c9c | 6a9c | d59c
        0f84 9c9d9ccf | 669a c3000000 | ea 9c9c9c9c 1000 | c8 9c9c 9c | a1 9c9c9c9c | 67a1 9c9c
        f644249c 9c | f694249c9c9c9c | f78424 9c9c9c9c 9d9d9d9d | 66f700 9c9c | f7d0 | 0fbae09c
        0f3a0fc19c | 660f3a0fc19c | 0f3800c1 | c5f877 | c5f970 9c249c9c9c9c9c | c4e2719cc2
        c4e3f90fc19c | 62f17c48104c249c | c4049c | c5049c | 62049c | 8b849c 9c9c9c9c | 8b05 9c9c9c9c
        678b86 9c9c | 678b469c | d9742490 | 0f0fc89e | f20f70c09c | e8 9c9c9c9c | f02e3e8b00
        ca9c9c | cd9c | 0fc7f0 | 0f18049d 9c9c9c9c | e49c | eb9c | 709c
    """.replace("\n", "|").split("|")
    if piece.strip()
]
"""Instructions with operands that look like unprivileged ones."""


@settings(max_examples=300)
@given(st.lists(st.sampled_from(range(len(PIECES))), min_size=1, max_size=12))
def test_lengths_are_those_of_the_decoder(order: list[int]) -> None:
    code = b"".join(PIECES[index] for index in order)
    assert found_by_kernel(code) == found_by_decoder(code)


def test_cut_instruction_at_the_end_reads_nothing_after_it() -> None:
    for whole in PIECES:
        for cut in range(len(whole)):
            found = found_by_kernel(whole[:cut])
            assert found is None or found < cut


@pytest.mark.distro
def test_modules_of_a_distribution() -> None:
    kernel = find_distro("debian-686") or missing("Debian's kernel debian-686", "make test-distro")
    paths = sorted(kernel.modules.rglob("*.ko"))
    hits = 0
    for path in random.Random(8).sample(paths, 200):
        image = Module.parse(path.read_bytes(), path.name).image
        for section in image.executable_sections:
            code = image.section_bytes(section)
            if len(code) < 0x1F0000:
                expected = found_by_decoder(code)
                hits += expected is not None
                assert found_by_kernel(code) == expected, (path.name, section.name)
    assert hits > 3
