# SPDX-License-Identifier: MIT
"""Does the proof know what each word of moved boot code must hold? Linked there, it holds that."""

from __future__ import annotations

import pytest

from tests.image.repack.forms import (
    FORMS,
    LINK_PA,
    BootCodeForm,
    Extra,
    Part,
    WithLinkerTables,
    word,
)
from tests.image.repack.linked import Linked, link, noisy_kernel, small_kernel
from tests.image.repack.test_repack import KNOWN, LLD_UNKNOWN, OLD, UNKNOWN, inside
from vmipatch.image.elf import ElfImage
from vmipatch.verify.static.bzimage.boot_code import UnknownBootCode, read_boot_code
from vmipatch.verify.static.bzimage.kernel_facts import KernelFacts, link_of
from vmipatch.verify.static.bzimage.words import NewKernel, new_words, with_words


def expected(
    linked: Linked, new: bytes, distance: int, old: bytes | None = None
) -> tuple[bytes, bytes]:
    """Head and tail of `linked`, made for `old`, around `new`, as the proof has them."""
    old = old or small_kernel()
    before = inside(old)
    end = linked.payload_off + len(before.payload)
    boot = read_boot_code(linked.code, (linked.payload_off, end))
    was, now = ElfImage.parse(old), ElfImage.parse(new)
    link_pa, page_offset = link_of(was, LINK_PA)
    after = inside(new)
    kernel = NewKernel(
        KernelFacts.of(was, len(before.payload), before.output_len, link_pa),
        KernelFacts.of(now, len(after.payload), after.output_len, link_pa),
        (link_pa, page_offset),
        distance,
    )
    return with_words(boot, new_words(boot, kernel))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("distance", [0x2000, 0x23400])
@pytest.mark.parametrize("shift", [0, 0x5000])
def test_moved_boot_code_is_what_linking_it_there_gives(
    form: BootCodeForm, distance: int, shift: int
) -> None:
    new = small_kernel(4_000, 0x34000, shift)
    before = link(OLD, form=form)
    there = link(inside(new), None, before, distance, form)
    head, tail = expected(before, new, distance)
    assert head == there.code[: there.payload_off]
    assert tail[:-4] == there.code[there.text_off :][:-4]


@pytest.mark.parametrize("gnu_hash", [False, True])
def test_tables_for_a_dynamic_linker_keep_their_words(gnu_hash: bool) -> None:
    form, new, distance = WithLinkerTables(gnu_hash=gnu_hash), small_kernel(4_000), 0x2000
    before = link(OLD, form=form)
    there = link(inside(new), None, before, distance, form)
    _, tail = expected(before, new, distance)
    low, high = (off - before.text_off for off in before.tables)
    linked_there = there.code[there.text_off :]
    assert tail[low:high] == before.code[before.tables[0] : before.tables[1]]
    assert tail[low:high] != linked_there[low:high]
    assert (tail[:low], tail[high:-4]) == (linked_there[:low], linked_there[high:-4])


def test_length_that_is_an_offset_in_the_tail_is_a_number_where_assembly_pushes_it() -> None:
    form, old, new, distance = FORMS["4.7 to 5.7"], noisy_kernel(), noisy_kernel(9_000), 0x2400
    before = link(inside(old), form=form)
    there = link(inside(new), None, before, distance, form)
    head, tail = expected(before, new, distance, old)
    assert head == there.code[: there.payload_off]
    assert tail[:-4] == there.code[there.text_off :][:-4]


def test_length_that_is_an_offset_in_the_tail_is_not_guessed_where_it_may_be_an_address() -> None:
    old = noisy_kernel()
    with pytest.raises(UnknownBootCode, match="a length of its kernel may be a place"):
        expected(link(inside(old), form=FORMS["lld"]), noisy_kernel(9_000), 0x2400, old)


def test_words_of_a_list_that_no_linker_makes_are_not_guessed() -> None:
    with pytest.raises(UnknownBootCode, match="between its parts"):
        expected(
            link(OLD, form=WithLinkerTables(gnu_hash=False, tag=99)), small_kernel(4_000), 0x2000
        )


@pytest.mark.parametrize("parts", KNOWN.values(), ids=KNOWN)
def test_word_is_known(parts: tuple[Part, ...]) -> None:
    extra, new = Extra(text=parts), small_kernel(4_000)
    before = link(OLD, extra)
    there = link(inside(new), extra, before, 0x2000)
    head, tail = expected(before, new, 0x2000)
    assert head == there.code[: there.payload_off]
    assert tail[:-4] == there.code[there.text_off :][:-4]


@pytest.mark.parametrize("extra", UNKNOWN.values(), ids=UNKNOWN)
def test_word_of_unknown_meaning_is_not_guessed(extra: Extra) -> None:
    with pytest.raises(UnknownBootCode):
        expected(link(OLD, extra), small_kernel(4_000), 0x2000)


@pytest.mark.parametrize("extra", LLD_UNKNOWN.values(), ids=LLD_UNKNOWN)
def test_place_that_may_be_a_number_is_not_guessed(extra: Extra) -> None:
    with pytest.raises(UnknownBootCode):
        expected(link(OLD, extra, form=FORMS["lld"]), small_kernel(4_000), 0x2000)


def test_number_that_is_compared_is_a_number() -> None:
    form = FORMS["lld"]
    extra = Extra(text=(bytes((0x3D,)), word(link(OLD, form=form).text_off + 0x10123)))
    new, before = small_kernel(4_000), link(OLD, extra, form=form)
    there = link(inside(new), extra, before, 0x2000, form)
    assert expected(before, new, 0x2000)[1][:-4] == there.code[there.text_off :][:-4]


@pytest.mark.parametrize("at", [1, 4])
def test_head_of_another_build_is_unknown(at: int) -> None:
    linked = link(OLD)
    code = bytearray(linked.code)
    code[2 * at : 2 * at + 1] = b"\x90"
    with pytest.raises(UnknownBootCode):
        read_boot_code(bytes(code), (linked.payload_off, linked.payload_off + len(OLD.payload)))
