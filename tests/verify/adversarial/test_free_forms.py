# SPDX-License-Identifier: MIT
"""Is what a consistent change could leave to choice a form that the proof demands?

Each of these was accepted once: all that names the changed thing was changed with it.
"""

from __future__ import annotations

import json
import random

import pytest

from tests.rewrite.smallkernel import SmallKernel
from tests.verify.adversarial.kinds import NotHere
from tests.verify.adversarial.of_added import padding_after, thunks_and_names
from tests.verify.edit import OFFSET, SIZE, FileEdit
from tests.verify.test_module import sample
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite.module import rewrite_module
from vmipatch.rewrite.rewrite import RewriteOptions, rewrite
from vmipatch.verify.static import check_static
from vmipatch.verify.static.module import check_module


def kernel() -> ElfImage:
    """Sites with thunks of equal length, and instructions that are harmless."""
    small = SmallKernel()
    small.text.function("start_kernel", "fa 0f20c0 0f20c1 0f20c2 0f20c3 0f22c3 0f22d8 0f22d9 fb",
                        "cd80 0f00e0 9c 58 9c 59 9c 5a c3")  # fmt: skip
    return small.image()


ORIGINAL = kernel()
DIGEST = ORIGINAL.file_sha256


def output(padding: Padding = Padding.PREFIX) -> ElfImage:
    """The kernel, rewritten."""
    return ElfImage.parse(rewrite(ORIGINAL, RewriteOptions(padding)).data, "output")


def broken(data: bytes) -> set[str]:
    """The rules that a changed output breaks."""
    verdict = check_static(ORIGINAL, ElfImage.parse(data), original_sha256=DIGEST)
    return {rule.number for rule in verdict.totals}


@pytest.mark.parametrize("padding", list(Padding))
def test_honest_output_holds(padding: Padding) -> None:
    assert broken(output(padding).data) == set()


def test_thunks_that_changed_places_with_all_that_names_them_are_found() -> None:
    done = 0
    for number in range(8):
        edit = FileEdit.of(output())
        try:
            thunks_and_names(edit, random.Random(number), (0,))
        except NotHere:
            continue
        assert "VP063" in broken(edit.file())
        done += 1
    assert done > 4


@pytest.mark.parametrize("in_front", (0, 1))
def test_one_site_with_another_kind_of_padding_is_found(in_front: int) -> None:
    for number in range(4):
        edit = FileEdit.of(output())
        padding_after(edit, random.Random(number), (in_front,))
        assert "VP061" in broken(edit.file())


@pytest.mark.parametrize("padding", list(Padding))
def test_manifest_that_names_another_kind_of_padding_is_found(padding: Padding) -> None:
    image = output(padding)
    (other,) = {*Padding} - {padding}
    text = image.section_bytes(image.section_by_name[".vmi.manifest"])
    assert json.loads(text)["padding"] == padding.value
    edit = FileEdit.of(image)
    edit.set_manifest({**edit.manifest(), "padding": other.value})
    assert "VP061" in broken(edit.file())


@pytest.mark.parametrize("count", (0, 1, 3))
def test_number_of_harmless_instructions_is_counted_anew(count: int) -> None:
    image = output()
    section = image.section_by_name[".vmi.manifest"]
    text = image.section_bytes(section)
    assert json.loads(text)["sites"]["harmless"] == 2
    changed = bytearray(image.data)
    at = section.off + text.index(b'"harmless":2')
    changed[at : at + 12] = b'"harmless":%d' % count
    assert broken(bytes(changed)) & {"VP107", "VP109"}


def test_debug_sections_that_nothing_had_are_found() -> None:
    edit = FileEdit.of(output())
    edit.set_manifest({**edit.manifest(), "dropped": [".debug_info"]})
    assert broken(edit.file())


@pytest.mark.parametrize("count", (1, 4, 16))
def test_zeros_after_the_manifest_are_found(count: int) -> None:
    """Where they are read, they are no error: the proof has to come to its end."""
    edit = FileEdit.of(output())
    edit.rewrite(".vmi.manifest", edit.content(".vmi.manifest") + bytes(count))
    assert broken(edit.file())


@pytest.mark.parametrize("count", (1, 4, 16))
def test_zeros_after_the_note_are_found(count: int) -> None:
    edit = FileEdit.of(output())
    head = edit.head(".vmi.restore")
    assert head[OFFSET] + head[SIZE] == len(edit.data)
    head[SIZE] += count
    edit.data += bytes(count)
    assert "VP145" in broken(edit.file())


@pytest.mark.parametrize("count", (1, 4, 16))
def test_zeros_after_the_note_of_a_module_are_found(count: int) -> None:
    module = sample()
    edit = FileEdit.of(ElfImage.parse(rewrite_module(module, "small").data))
    assert check_module(module, edit.file()).holds
    edit.head(".vmi.restore")[SIZE] += count
    edit.data += bytes(count)
    assert "VP145" in {rule.number for rule in check_module(module, edit.file()).totals}
