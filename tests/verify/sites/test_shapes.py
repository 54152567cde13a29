# SPDX-License-Identifier: MIT
"""Are sites read from a rewritten kernel what the scan found in the original?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.verify.sites.kernels import example, rewritten_example
from vmipatch.choices import Padding
from vmipatch.errors import MalformedTable
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite
from vmipatch.rewrite.rewrite import RewriteOptions
from vmipatch.verify.sites.shapes import Way, patched_sites, shapes_of


@pytest.mark.parametrize("padding", Padding)
def test_sites_are_those_that_were_rewritten(padding: Padding) -> None:
    made = rewrite(example(), RewriteOptions(padding))
    found = {
        site.va: (len(site.code), site.kind, site.call)
        for site in patched_sites(ElfImage.parse(made.data))
        if site.way is not Way.FALLBACK
    }
    address = made.placement.map.one
    assert found == {
        address(site.va): (len(site.code), site.kind, site.call) for site, _ in made.sites
    }


def test_each_site_has_one_shape() -> None:
    image = rewritten_example()
    shapes = shapes_of(image).shapes
    assert sum(s.count for s in shapes if s.site.way is not Way.NATIVE) == len(
        list(patched_sites(image))
    )
    assert len({shape.name for shape in shapes}) == len(shapes) > 150


def test_every_thunk_is_executed() -> None:
    image = rewritten_example()
    thunks = {site.thunk_va for site in patched_sites(image) if site.way is Way.THUNK}
    assert {s.site.thunk_va for s in shapes_of(image).shapes} == thunks | {None}


def test_what_stays_native_is_executed_or_counted(tmp_path: Path) -> None:
    image = rewritten_example()
    native = [shape.site for shape in shapes_of(image).shapes if shape.site.way is Way.NATIVE]
    assert {"mov to ss", "pop segment", "lss", "mov to cr"} < {site.kind for site in native}
    assert all(image.read(site.va, site.body_len) == site.code for site in native)
    file = tmp_path / "vmlinux"
    file.write_bytes(example().data)
    listing = subprocess.run(["objdump", "-d", file], capture_output=True, text=True, check=True)
    assert shapes_of(image).left_out["far jmp"] == listing.stdout.count("ljmp") > 0


def test_sites_at_which_a_fault_is_expected_are_shapes_of_their_own() -> None:
    expecting = [s.site for s in shapes_of(rewritten_example()).shapes if s.site.fixup_va]
    assert {"rdmsr", "wrmsr", "iret", "mov to segment"} <= {site.kind for site in expecting}
    assert all(site.va <= site.fixup_va < site.end_va for site in expecting if site.fixup_va)


def test_record_of_no_instruction_is_refused() -> None:
    image = rewritten_example()
    site = next(iter(patched_sites(image)))
    data = bytearray(image.data)
    off = image.offset_of(site.va)
    data[off : off + site.body_len] = b"\x90" * site.body_len
    with pytest.raises(MalformedTable, match="no sensitive instruction"):
        shapes_of(ElfImage.parse(bytes(data)))
