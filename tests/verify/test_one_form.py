# SPDX-License-Identifier: MIT
"""Is there one form for what the rewriter fills in, pads and orders, and is any other refused?"""

from __future__ import annotations

import struct

import pytest

from tests.rewrite.smallkernel import ROOM_FOR_ALL, Branch, SmallKernel, Word
from tests.verify.edit import FileEdit
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.verify.static import check_static
from vmipatch.verify.static.pads import INT3, nops
from vmipatch.vmi.record import RECORD_LEN


def kernel() -> SmallKernel:
    """Functions with sites, and filler between them."""
    result = SmallKernel()
    text = result.text
    text.function("start_kernel", Branch("e8", "grows"), "fa c3")
    text.function("grows", "fa fb c3")
    text.function("after_nops", "0f31 c3")
    text.function("barred", "fa fb 0f20d8 c3")
    text.function("after_int3", "31c0 fa c3", filler=INT3)
    text.function("last", "c3")
    text.put(INT3 * ROOM_FOR_ALL)
    text.function("tail", "c3")
    result.rodata().put(Word("last"))
    return result


ORIGINAL = kernel().image()


def output(padding: Padding = Padding.PREFIX) -> ElfImage:
    """The kernel, rewritten."""
    return kernel().rewrite(padding).image


def broken(edit: FileEdit) -> set[str]:
    """The rules that are broken by a changed output."""
    return {rule.number for rule in check_static(ORIGINAL, edit.image()).totals}


FOLLOWS = {"after_nops": "grows", "after_int3": "barred", "last": "after_int3"}
"""The function that each follows."""


def before(image: ElfImage, name: str) -> tuple[int, bytes]:
    """Address and bytes of the filler in front of a function."""
    previous, following = image.symbols.by_name[FOLLOWS[name]], image.symbols.by_name[name]
    start_va = previous.va + previous.size
    return start_va, image.read(start_va, following.va - start_va)


def test_output_is_proven() -> None:
    for padding in Padding:
        assert check_static(ORIGINAL, output(padding)).holds


@pytest.mark.parametrize("name", ("after_nops", "after_int3"))
def test_filler_of_another_form_is_found(name: str) -> None:
    """One nop of a byte instead of longer ones, int3 for nops and the other way around."""
    image = output()
    start_va, filler = before(image, name)
    assert filler
    for other in (b"\x90" * len(filler), INT3 * len(filler), nops(len(filler)), b"\x66\x90" * 8):
        cut = other[: len(filler)]
        if cut == filler:
            continue
        edit = FileEdit.of(image)
        edit.put(start_va, cut)
        assert broken(edit) & {"VP001", "VP003"}, cut.hex(" ")


def test_every_byte_of_filler_counts() -> None:
    image = output()
    for name in ("after_nops", "after_int3", "last"):
        start_va, filler = before(image, name)
        for at, byte in enumerate(filler):
            for flip in (0x01, byte ^ 0x90):
                if flip:
                    edit = FileEdit.of(image)
                    edit.put(start_va + at, bytes((byte ^ flip,)))
                    assert broken(edit), (name, at, flip)


def test_functions_that_changed_places_are_found() -> None:
    """Both end with ret, and nothing but their addresses tells their order."""
    image = output()
    first, second = (image.symbols.by_name[name] for name in ("after_nops", "barred"))
    edit = FileEdit.of(image)
    (length,) = {second.va - first.va}
    code = image.read(first.va, length), image.read(second.va, length)
    edit.put(first.va, code[1])
    edit.put(second.va, code[0])
    table = edit.head(".symtab")[4]
    for symbol, va in ((first, second.va), (second, first.va)):
        struct.pack_into("<I", edit.data, table + 16 * symbol.index + 4, va)
    assert "VP002" in broken(edit)


def test_padding_of_a_site_has_one_form() -> None:
    """A mov of a register to itself is a nop, too, but not of the two bytes that belong there."""
    image = output(Padding.NOP)
    va = image.symbols.address("after_nops") or 0
    body = image.read(va, 5)
    assert body == bytes.fromhex("0f31") + nops(3)
    for other in ("90 89f6", "89f6 90", "909090", "8d3600", "0f1f00"):
        edit = FileEdit.of(image)
        edit.put(va + 2, bytes.fromhex(other))
        assert broken(edit) & {"VP001", "VP060", "VP061"}, other


def test_records_in_another_order_are_found() -> None:
    edit = FileEdit.of(output())
    head = edit.head(".vmi.annotation")
    records = edit.content(".vmi.annotation")
    assert len(records) > 2 * RECORD_LEN
    swapped = (
        records[RECORD_LEN : 2 * RECORD_LEN] + records[:RECORD_LEN] + records[2 * RECORD_LEN :]
    )
    edit.put(head[3], swapped)
    assert "VP061" in broken(edit)
