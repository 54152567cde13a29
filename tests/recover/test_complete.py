# SPDX-License-Identifier: MIT
"""What does a vmlinux without relocations tell, with the list of its absolute words?"""

from __future__ import annotations

import numpy as np
import pytest

from tests.recover.taken_out import without_relocations
from tests.rewrite.smallkernel import RODATA_VA, Branch, Distance, SmallKernel, Word
from tests.support.elfbuilder import RODATA
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import Relocations, has_relocations
from vmipatch.image.symbols import STT_NOTYPE, STT_OBJECT, STT_SECTION
from vmipatch.recover import complete
from vmipatch.recover.image import Recovered
from vmipatch.restore import restore
from vmipatch.rewrite import Treatment, rewrite
from vmipatch.verify.static import check_static


def small() -> SmallKernel:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", Branch("e8", "reads"), "fa fb", "a1", Word("where"), "c3")
    kernel.text.function("reads", "0f20c0 c3")
    data = kernel.writable()
    data.label("where")
    data.put(Word("reads"), Word("start_kernel", physical=True), Word("where"))
    return kernel


def completed(kernel: SmallKernel) -> Recovered:
    data, relocs = without_relocations(kernel)
    return complete(ElfImage.parse(data, "vmlinux"), relocs)


def test_every_word_of_the_list_becomes_a_relocation() -> None:
    _, relocs = without_relocations(small())
    entries = Relocations.of(completed(small()).image).entries
    assert tuple(entries["va"].tolist()) == relocs


def test_symbols_and_memory_stay_as_they_were() -> None:
    found = completed(small())
    old = found.source.symbols
    assert np.array_equal(found.image.symbols.entries[: len(old)], old.entries)
    assert found.image.symbols.strings == old.strings
    for section in found.source.allocated_sections:
        mine = found.image.read(section.va, section.size)
        assert mine == found.source.section_bytes(section)


def test_section_without_a_symbol_gets_one() -> None:
    kernel = small()
    builder = kernel.builder()
    builder.symbols = [s for s in builder.symbols if s.kind != STT_SECTION]
    builder.relocations.clear()
    _, relocs = without_relocations(kernel)
    found = complete(builder.image("vmlinux"), relocs)
    entries = Relocations.of(found.image).entries
    kinds = found.image.symbols.entries["info"][entries["symbol"]] & 15
    assert (kinds == STT_SECTION).all()


def test_rewritten_kernel_is_proven_and_restored() -> None:
    found = completed(small())
    done = rewrite(found.kernel)
    assert {Treatment.of(site) for site, _ in done.sites} == {Treatment.RELINKED}
    image = ElfImage.parse(done.data, "rewritten")
    assert check_static(found.image, image, found.fixed).findings == ()
    assert restore(image).data == found.source.data


def test_symbols_after_the_border_belong_to_what_lies_there() -> None:
    kernel = small()
    kernel.text.function("stays", "fa c3")
    kernel.rodata().put(Distance("stays", relocated=False))
    found = completed(kernel)
    following = found.image.section_by_name[".text.behind"]
    assert kernel.va("stays") in following
    assert found.image.symbols.by_name["stays"].section == following.index
    done = rewrite(found.kernel)
    image = ElfImage.parse(done.data, "rewritten")
    assert image.symbols.address("stays") == kernel.va("stays")
    assert check_static(found.image, image, found.fixed).findings == ()
    assert restore(image).data == found.source.data


def test_relocations_that_the_build_left_do_not_speak_for_the_code() -> None:
    """Those of operands; what they name may lie after the border, in another section."""
    kernel = small()
    kernel.text.function("stays", "fa c3")
    kernel.text.function("patched", "fa b8efcdab89 c3")
    kernel.labels[".Loperand"] = (kernel.va("patched") + 2, 0, 0)
    kernel.rodata().put(Distance("stays", relocated=False))
    operands = kernel.block("runtime_ptr_x", RODATA_VA + 0x100, RODATA)
    word_va = operands.put(Distance(".Loperand"))
    data, relocs = without_relocations(kernel)
    image = ElfImage.parse(data, "vmlinux")
    assert ".relruntime_ptr_x" in image.section_by_name
    assert not has_relocations(image)
    found = complete(image, relocs)
    assert kernel.va("patched") not in found.image.section_by_name[".text"]
    done = rewrite(found.kernel)
    after = ElfImage.parse(done.data, "rewritten")
    assert check_static(found.image, after, found.fixed).findings == ()
    operand_va = (word_va + int.from_bytes(after.read(word_va, 4), "little")) & 0xFFFFFFFF
    assert after.read(operand_va - 1, 6) == bytes.fromhex("b8efcdab89c3")


def test_variable_of_c_holds_no_distance() -> None:
    """Without its symbol the same word keeps code in place."""
    kernel = small()
    kernel.text.function("moves", "fa c3")
    rodata = kernel.rodata()
    rodata.label("variable", STT_OBJECT, 4)
    rodata.put(Distance("moves", relocated=False))
    assert completed(kernel).fixed == ()
    rodata.label("variable", STT_NOTYPE)
    assert completed(kernel).fixed == ((kernel.va("moves"),) * 2,)


def test_vmlinux_without_a_list_or_symbols_is_refused() -> None:
    data, relocs = without_relocations(small())
    with pytest.raises(InputNotUnderstood, match="no relocation list"):
        complete(ElfImage.parse(data), None)
    builder = small().builder()
    builder.relocations.clear()
    builder.symbols.clear()
    with pytest.raises(InputNotUnderstood, match="no symbols"):
        complete(builder.image(), relocs)
