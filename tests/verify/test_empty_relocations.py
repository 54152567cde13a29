# SPDX-License-Identifier: MIT
"""Does a relocation of kind R_386_NONE stay as it is, and is another one a finding?"""

from __future__ import annotations

import pytest

from tests.rewrite.smallkernel import DATA_VA, SmallKernel, Word
from tests.support.elfbuilder import DATA
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import RAW_REL
from vmipatch.rewrite import rewrite
from vmipatch.verify.static import check_static


def emptied() -> ElfImage:
    """A kernel that shifts, and one of whose entries patches nothing, as sorting leaves them."""
    kernel = SmallKernel(room=False)
    kernel.text.function("f", "fa c3")
    kernel.block(".data", DATA_VA, DATA).put(Word("f"), "00000000", Word("f"))
    image = kernel.image()
    section = image.section_by_name[".rel.data"]
    data = bytearray(image.data)
    data[section.off + 4] = 0
    return ElfImage.parse(bytes(data), "emptied")


def test_entry_that_patches_nothing_stays() -> None:
    image = emptied()
    done = rewrite(image)
    assert done.placement.shift_len
    output = ElfImage.parse(done.data, "rewritten")
    was, now = (i.section_bytes(i.section_by_name[".rel.data"]) for i in (image, output))
    assert now[: RAW_REL.itemsize] == was[: RAW_REL.itemsize]
    assert check_static(image, output).holds


@pytest.mark.parametrize("byte", [0, 1, 2, 3, 5, 6, 7])
def test_changed_entry_that_patches_nothing_is_a_finding(byte: int) -> None:
    """Any byte but that of its kind: what kind 8 is, no kernel has and no reader takes."""
    image = emptied()
    data = bytearray(rewrite(image).data)
    section = ElfImage.parse(bytes(data)).section_by_name[".rel.data"]
    data[section.off + byte] ^= 8
    changed = ElfImage.parse(bytes(data), "changed")
    assert "VP011" in {rule.number for rule in check_static(image, changed).totals}
