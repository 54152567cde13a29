# SPDX-License-Identifier: MIT
"""Does a rewritten module give its input back: signature, packing and all?"""

from __future__ import annotations

import gzip
import lzma
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.elfbuilder import RODATA
from tests.support.smallmodule import BranchTo, Distance, Short, SmallModule, Word
from vmipatch.choices import Padding
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import SIGNATURE_END
from vmipatch.image.packed import OPTIONS, pack, recipe_of, usual
from vmipatch.image.packing.compression import Compression
from vmipatch.restore import Gives, restore_module
from vmipatch.rewrite import RewriteOptions
from vmipatch.rewrite.module import RewrittenModule, rewrite_module
from vmipatch.verify.static.module import check_module

CODE = ("fa", "fb", "9c 58", "9c", "f4", "0f 20 d8", "90", "31 c0", "0f 31", "e4 10")
"""Sites of several shapes, and instructions that are not sites."""


def sample() -> bytes:
    module = SmallModule()
    text = module.section(".text")
    text.function("f", "9c 58 fa", BranchTo("g"), BranchTo("printk"), "a1", Word(".data", 4), "c3")
    text.function("g", "0f32 e664 fb", Short("75", "f"), "c3")
    module.section(".init.text").function("start", "fa", BranchTo("f"), "c3")
    module.section(".data", RODATA, 4).put(Word(".text", 2), "11223344", Word("jiffies", 8))
    module.section("__ex_table", RODATA, 4).put(
        Distance(".text", 2), Distance(".text", 3), "00000000"
    )
    return module.build()


def signed(data: bytes, signature: bytes = b"signature") -> bytes:
    trailer = struct.pack(">8xI", len(signature))
    return data + signature + trailer + SIGNATURE_END


def rewritten(data: bytes, stored: bytes | None = None) -> RewrittenModule:
    return rewrite_module(data, "sample", RewriteOptions(), stored)


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("data", [sample(), signed(sample())], ids=["unsigned", "signed"])
def test_the_input_comes_back_to_the_last_byte(data: bytes, padding: Padding) -> None:
    done = rewrite_module(data, "sample", RewriteOptions(padding))
    assert check_module(data, done.data).holds
    restored = restore_module(done.data, "sample")
    assert restored.data == data
    assert restored.gives is Gives.INPUT
    assert done.noted is not None
    assert (done.noted.sha256, done.noted.note_len) == (restored.sha256, restored.note_len)


@settings(max_examples=25)
@given(
    functions=st.lists(st.lists(st.sampled_from(CODE), min_size=1, max_size=12), max_size=8),
    align=st.sampled_from((1, 4, 16)),
)
def test_any_mixture_of_sites_comes_back(functions: list[list[str]], align: int) -> None:
    module = SmallModule()
    text = module.section(".text", align=align)
    for number, code in enumerate([["fa"], *functions]):
        text.function(f"f{number}", *code, BranchTo("f0"), "c3")
    data = module.build()
    assert restore_module(rewritten(data).data, "sample").data == data


@pytest.mark.parametrize("packing", list(OPTIONS), ids=lambda packing: packing.label)
def test_packed_module_comes_back_packed(packing: Compression) -> None:
    stored = pack(sample(), usual(packing))
    done = rewritten(sample(), stored)
    assert done.recipe is not None
    assert restore_module(pack(done.data, done.recipe), "sample").data == stored


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(lzma.compress(sample(), preset=0), id="xz"),
        pytest.param(gzip.compress(sample(), 1, mtime=77), id="gzip"),
    ],
)
def test_packing_that_nobody_knows_is_said_beforehand(stored: bytes) -> None:
    done = rewritten(sample(), stored)
    assert recipe_of(stored, sample()) is None
    assert done.noted is not None
    assert done.noted.gives is Gives.UNPACKED
    restored = restore_module(done.data, "sample")
    assert (restored.data, restored.gives) == (sample(), Gives.UNPACKED)


def test_module_that_was_signed_anew_gives_the_input_back() -> None:
    done = rewritten(signed(sample(), b"the distribution's"))
    again = signed(done.data, b"another")
    assert restore_module(again, "sample").data == signed(sample(), b"the distribution's")


def test_note_of_a_module_is_small() -> None:
    module = SmallModule()
    for number in range(200):
        module.section(".text").function(f"f{number}", "9c 58 fa", BranchTo("printk"), "c3")
    done = rewritten(module.build())
    assert done.noted is not None
    assert 20 * done.noted.note_len < len(done.data)


@settings(max_examples=60)
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_changed_byte_of_the_note_is_refused_or_changes_nothing(
    where: float, flip: int
) -> None:
    data = bytearray(rewritten(sample()).data)
    section = ElfImage.parse(bytes(data)).section_by_name[".vmi.restore"]
    data[section.off + int(where * section.size)] ^= flip
    try:
        done = restore_module(bytes(data), "sample")
    except InputNotUnderstood as error:
        assert error.hint is not None and "restore from another copy" in error.hint
    else:
        # Blanks between the names of the recipe, which may be others.
        assert done.data == sample()


def test_module_without_a_note_is_refused() -> None:
    with pytest.raises(InputNotUnderstood, match="vmipatch rewrite"):
        restore_module(sample(), "sample")
