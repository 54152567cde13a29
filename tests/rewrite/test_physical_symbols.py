# SPDX-License-Identifier: MIT
"""Does a symbol that is the physical address of code follow it, in its section or not?"""

from __future__ import annotations

import struct

import pytest

from tests.rewrite.smallkernel import SmallKernel, Word
from tests.support.elfbuilder import PAGE_OFFSET
from vmipatch.errors import MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.physical import virtual_distances
from vmipatch.image.symbols import SYMBOL
from vmipatch.restore import restore
from vmipatch.rewrite import rewrite
from vmipatch.verify.static import check_static


def small(of: str = "after_a_site") -> SmallKernel:
    """A kernel in which `_start` is the physical address of a label, of the label's section."""
    kernel = SmallKernel(room=False)
    kernel.text.function("start_kernel", "fa fb fa fb fa fb f4 c3")
    kernel.text.function("after_a_site", "fa 9c 58 c3")
    data = kernel.writable()
    data.label("words")
    data.put(Word("_start"), Word("after_a_site", physical=True))
    kernel.labels["_start"] = (kernel.va(of) - PAGE_OFFSET, 0, 0)
    return kernel


def image_of(kernel: SmallKernel, section: str = ".text") -> ElfImage:
    """The kernel with `_start` in `section`, as assemblers leave it."""
    data = bytearray(kernel.builder().build())
    image = ElfImage.parse(bytes(data))
    symbol, table = image.symbols.by_name["_start"], image.section_by_name[".symtab"]
    at = table.off + SYMBOL.itemsize * symbol.index + 14
    data[at : at + 2] = struct.pack("<H", image.section_by_name[section].index)
    return ElfImage.parse(bytes(data))


def moved(output: ElfImage, name: str) -> int:
    found = output.symbols.address(name)
    assert found is not None
    return found


def word(output: ElfImage, index: int) -> int:
    return int.from_bytes(output.read(moved(output, "words") + 4 * index, 4), "little")


def test_symbol_and_words_that_name_it_follow_their_code() -> None:
    image = image_of(small())
    done = rewrite(image)
    output = ElfImage.parse(done.data, "rewritten")
    entry_va = moved(output, "after_a_site")
    assert entry_va != moved(image, "after_a_site")
    assert moved(output, "_start") == entry_va - PAGE_OFFSET
    assert word(output, 0) == word(output, 1) == entry_va - PAGE_OFFSET
    assert check_static(image, output, must_run=True).findings == ()
    assert restore(output).data == image.data


def test_symbol_of_data_that_moves_follows_it() -> None:
    """There is no room after .text, so .data moves."""
    kernel = small("words")
    image = image_of(kernel, ".data")
    output = ElfImage.parse(rewrite(image).data, "rewritten")
    assert moved(output, "_start") == moved(output, "words") - PAGE_OFFSET
    assert moved(output, "words") > moved(image, "words")
    assert check_static(image, output, must_run=True).findings == ()


@pytest.mark.parametrize("by", [-0x1000, 1])
def test_proof_finds_a_symbol_that_did_not_follow(by: int) -> None:
    image = image_of(small())
    data = bytearray(rewrite(image).data)
    output = ElfImage.parse(bytes(data), "rewritten")
    symbol, table = output.symbols.by_name["_start"], output.section_by_name[".symtab"]
    at = table.off + SYMBOL.itemsize * symbol.index + 4
    data[at : at + 4] = struct.pack("<I", symbol.va + by)
    changed = ElfImage.parse(bytes(data), "changed")
    assert "VP030" in {rule.number for rule in check_static(image, changed).totals}


def test_symbol_that_is_no_address_of_its_section_is_damage() -> None:
    kernel = small()
    kernel.labels["_start"] = (0x123, 0, 0)
    image = image_of(kernel)
    assert not virtual_distances(image).any()
    with pytest.raises(MalformedImage, match="lies outside of its section"):
        rewrite(image)


def test_only_symbols_whose_section_is_linked_elsewhere_are_physical() -> None:
    image = image_of(small())
    (which,) = virtual_distances(image).nonzero()
    assert [image.symbols[int(i)].name for i in which] == ["_start"]
    assert set(virtual_distances(image)[which]) == {PAGE_OFFSET}
