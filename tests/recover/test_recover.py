# SPDX-License-Identifier: MIT
"""What does a small stripped kernel still tell, and what is left in doubt?"""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from tests.recover.stripped import KALLSYMS_VA, ship
from tests.rewrite.smallkernel import DATA_VA, PAGE, Branch, Distance, SmallKernel, Word
from tests.support.elfbuilder import DATA, RODATA
from tests.support.kallsyms import Style
from vmipatch.errors import InputNotUnderstood, MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import Relocations
from vmipatch.image.symbols import STT_FUNC
from vmipatch.image.types import SectionFlag
from vmipatch.recover import recover
from vmipatch.recover.references import BIAS
from vmipatch.rewrite import rewrite

NOP5 = "3e8d742600"


def small() -> SmallKernel:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", Branch("e8", "reads"), "c3")
    kernel.text.function("reads", "89c8 89c8 89c8 c3")
    kernel.text.function("other", "31c0 31c0 c3")
    return kernel


@pytest.mark.parametrize("style", Style)
@pytest.mark.parametrize("more", (0, 600), ids=("few", "many"))
def test_functions_come_back_from_kallsyms(style: Style, more: int) -> None:
    kernel = small()
    for i in range(more):
        kernel.text.function(f"{'long' * 33 * (i % 7 == 0)}_{i}", "c3", align=4)
    found = recover(*ship(kernel, kallsyms=style))
    names = [f"{'long' * 33 * (i % 7 == 0)}_{i}" for i in range(more)]
    for name in names:
        assert found.image.symbols.address(name) == kernel.va(name)
    for name in ("startup_32", "start_kernel", "reads", "other"):
        assert found.image.symbols.address(name) == kernel.va(name)


def test_bytes_in_memory_stay_as_they_were() -> None:
    image, relocs = ship(small())
    found = recover(image, relocs)
    for section in image.allocated_sections:
        assert found.image.read(section.va, section.size) == image.read(section.va, section.size)


def test_every_word_of_the_list_becomes_a_relocation() -> None:
    kernel = small()
    kernel.writable().put(Word("reads"), Word("reads", 2), Word("start_kernel", physical=True))
    image, relocs = ship(kernel)
    entries = Relocations.of(recover(image, relocs).image).entries
    assert tuple(entries["va"].tolist()) == relocs


def test_kernel_without_a_relocation_list_is_refused() -> None:
    image, _ = ship(small())
    with pytest.raises(InputNotUnderstood, match="relocation list"):
        recover(image, None)


def test_loaded_section_that_is_not_allocated_is_refused() -> None:
    kernel = small()
    kernel.writable().put(Word("reads"))
    image, relocs = ship(kernel)
    flags = {".data": SectionFlag.NONE}
    sections = tuple(replace(s, flags=flags.get(s.name, s.flags)) for s in image.sections)
    with pytest.raises(MalformedImage, match="not allocated") as caught:
        recover(replace(image, sections=sections), relocs)
    assert ".data" in str(caught.value.place)


def test_kernel_without_kallsyms_is_refused() -> None:
    with pytest.raises(InputNotUnderstood, match="kallsyms"):
        recover(*ship(small(), kallsyms=None))


@pytest.mark.parametrize("at", (-512, -510, -2))
def test_kernel_without_tokens_has_no_kallsyms(at: int) -> None:
    """As the index of tokens is not one."""
    with pytest.raises(InputNotUnderstood, match="has no symbols of its own"):
        recover(*damaged(Style.OFFSETS, at))


@pytest.mark.parametrize(
    ("style", "at"),
    [
        *((Style.OFFSETS, at) for at in (3, 24, 28)),
        *((Style.NAMES_FIRST, at) for at in (0, 4, 60, -37, -21, -17, -16, -2)),
        *((Style.DISTANCES, at) for at in (0, 4, 60, -33, -17, -16, -2)),
    ],
)
def test_kallsyms_that_contradict_themselves_are_unknown(style: Style, at: int) -> None:
    """The words of the first and the last symbol, the count, a name, a marker, the base and
    sequence numbers: five symbols need 15 bytes and one of padding for these.
    """
    with pytest.raises(InputNotUnderstood, match=r"kallsyms.*a layout that vmipatch does not know"):
        recover(*damaged(style, at))


def damaged(style: Style, at: int) -> tuple[ElfImage, tuple[int, ...]]:
    """A shipped kernel with one byte of kallsyms inverted."""
    image, relocs = ship(small(), kallsyms=style)
    section = image.section_by_name[".kallsyms"]
    data = bytearray(image.data)
    data[section.off + at % section.size] ^= 0xFF
    return ElfImage.parse(bytes(data), "damaged"), relocs


def fixed_names(kernel: SmallKernel) -> set[str]:
    """The functions whose first instruction has to stay."""
    found = recover(*ship(kernel))
    return {
        name
        for name, (va, kind, _) in kernel.labels.items()
        if kind == STT_FUNC and any(low <= va < max(high, low + 1) for low, high in found.fixed)
    }


def test_without_doubts_all_may_move() -> None:
    kernel = small()
    kernel.writable().put(Word("reads"), Word("reads", 2), "78563412")
    assert recover(*ship(kernel)).fixed == ()


def alone(*vas: int) -> tuple[tuple[int, int], ...]:
    """The fixed ranges of single instructions."""
    return tuple((va, va) for va in vas)


def test_words_of_an_entry_that_are_distances_keep_instructions_in_place() -> None:
    kernel = small()
    entry = Distance("reads", 4, relocated=False), "01000000", Distance("other", 2, relocated=False)
    kernel.writable().put(*entry)
    kept = kernel.va("reads") + 4, kernel.va("other") + 2
    assert recover(*ship(kernel)).fixed == alone(*kept)


def test_word_that_is_the_distance_to_a_function_keeps_it_in_place() -> None:
    kernel = small()
    kernel.writable().put(Distance("reads", relocated=False))
    assert recover(*ship(kernel)).fixed == alone(kernel.va("reads"))


def test_single_word_of_a_section_of_its_own_may_be_a_table() -> None:
    kernel = small()
    kernel.block("marks", DATA_VA, DATA).put(Distance("reads", 4, relocated=False))
    assert recover(*ship(kernel)).fixed == alone(kernel.va("reads") + 4)


def test_single_word_among_variables_that_leads_into_a_function_is_a_number() -> None:
    kernel = small()
    number = Distance("reads", 4, relocated=False)
    kernel.writable().put("00000000" * 8, number, "00100000 00f0ffff" * 4)
    assert recover(*ship(kernel)).fixed == ()


def test_frequent_words_are_numbers() -> None:
    """Each is the distance to an instruction, and three of them would be entries."""
    for count, kept in ((3, True), (4, False)):
        kernel = small()
        kernel.text.function("long", b"\x40" * 64, "c3")
        data = kernel.writable()
        value = (kernel.va("long") + 4 - data.va) % (1 << 32)
        data.put(struct.pack("<I", value) * count)
        assert bool(recover(*ship(kernel)).fixed) is kept


def test_word_that_is_the_distance_into_an_instruction_is_chance() -> None:
    kernel = small()
    kernel.writable().put(Distance("reads", 3, relocated=False))
    assert recover(*ship(kernel)).fixed == ()


@pytest.mark.parametrize(
    "code",
    (
        ("8d0485", Word("other", 2)),  # lea eax, [eax * 4 + base]
        ("b8", Word("other", 1)),  # mov eax, no instruction
        ("b8", Word("other", 2)),  # mov eax, the inside of another function
        ("8b1d", Word("reads")),  # mov ebx, [bytes that are executed]
    ),
    ids=("base", "no instruction", "inside", "code as data"),
)
def test_around_a_word_that_need_not_be_a_pointer_all_stays(code: tuple[str, Word]) -> None:
    kernel = small()
    kernel.text.function("asks", *code, "c3")
    assert {"other", "reads", "asks"} <= fixed_names(kernel)


@pytest.mark.parametrize(
    "code",
    (
        ("b8", Word("other")),
        ("b8", Word(".Lhere")),
        ("c705", Word("other_data"), Word("reads")),
        ("8b1d", Word("after")),
    ),
    ids=("function", "own label", "stored", "data among the code"),
)
def test_plain_pointer_keeps_nothing_in_place(code: tuple[str | Word, ...]) -> None:
    kernel = small()
    kernel.text.function("asks", *code)
    kernel.text.label(".Lhere")
    kernel.text.put("c3")
    kernel.text.function("after", "c3", filler=b"\xcc")
    kernel.writable().label("other_data")
    kernel.blocks[-1].put("00000000")
    assert recover(*ship(kernel)).fixed == ()


def test_base_of_known_stubs_names_them() -> None:
    kernel = small()
    stubs = kernel.text.function("irq_entries_start", align=8)
    for vector in (0x20, 0x21, 0x22):
        kernel.text.put(bytes((0x6A, vector)), Branch("e9", "reads"), "cc")
    kernel.text.function("set_gates", "8d04c5", Word("irq_entries_start", -0x100), "c3")
    found = recover(*ship(kernel))
    assert found.fixed == ()
    word_va = kernel.va("set_gates") + 3
    entries = Relocations.of(found.image).entries
    symbol = int(entries["symbol"][entries["va"] == word_va][0])
    assert found.image.symbols[symbol].name == "irq_entries_start"
    assert found.image.symbols[symbol].va == stubs


COUNTS = {"up": (0x20, 0x21, 0x22), "down": (0x5F, 0x5E, 0x5D)}
"""The numbers that stubs push: vectors, or up to 5.7 `~vector + 0x80`."""


def with_stubs(pushed: tuple[int, ...], *code: str | Word) -> SmallKernel:
    """A small kernel with stubs of vectors from 0x20 on, and a function `uses` of `code`."""
    kernel = small()
    kernel.text.function("irq_entries_start", align=8)
    for number in pushed:
        kernel.text.put(bytes((0x6A, number)), Branch("e9", "reads"), "90")
    kernel.text.function("uses", *code)
    kernel.text.label(".Lown")
    kernel.text.put("c3")
    kernel.text.function("next", "c3", filler=b"\xcc")
    return kernel


@pytest.mark.parametrize("addend", (0, -0x100))
@pytest.mark.parametrize("counted", COUNTS)
def test_base_of_stubs_is_known_by_what_the_first_pushes(counted: str, addend: int) -> None:
    base = Word("irq_entries_start", addend)
    assert recover(*ship(with_stubs(COUNTS[counted], "8d04c5", base))).fixed == ()


@pytest.mark.parametrize("more", (0, 1, PAGE - 1))
def test_words_made_from_the_start_of_the_code_stay_and_keep_nothing(more: int) -> None:
    kernel = with_stubs(COUNTS["up"], "8d90", Word("startup_32", more))
    found = recover(*ship(kernel))
    assert found.fixed == ()
    done = rewrite(found.kernel)
    place = done.placement.map.one(kernel.va("uses") + 2)
    word = ElfImage.parse(done.data).read(place, 4)
    assert word == struct.pack("<I", kernel.va("startup_32") + more)


def test_function_that_numbers_are_added_to_is_known_by_its_name() -> None:
    kernel = with_stubs(COUNTS["up"], "8d88", Word("__bpf_call_base"))
    kernel.text.function("__bpf_call_base", "31c0 c3")
    assert recover(*ship(kernel)).fixed == ()


def test_far_jump_within_its_function_is_a_pointer() -> None:
    kernel = with_stubs(COUNTS["up"], "ea", Word(".Lown"), "1000")
    assert recover(*ship(kernel)).fixed == ()


def test_function_that_computes_an_entry_of_its_own_stays() -> None:
    kernel = with_stubs(COUNTS["up"], "8d9c5b", Word(".Lown"))
    start_va, end_va = kernel.va("uses"), kernel.va("next")
    assert recover(*ship(kernel)).fixed == ((start_va, end_va),)


def test_handler_that_is_compared_with_is_known_less_its_offset() -> None:
    kernel = with_stubs(COUNTS["up"], "3d", Word("ex_handler_fault", -8))
    kernel.text.function("ex_handler_fault", "31c0 c3")
    table = kernel.block("__ex_table", DATA_VA, RODATA)
    for name in ("reads", "other"):
        table.put(*(Distance(n, relocated=False) for n in (name, "other", "ex_handler_fault")))
    found = recover(*ship(kernel))
    assert found.fixed == ()
    entries = Relocations.of(found.image).entries
    symbol = int(entries["symbol"][entries["va"] == kernel.va("uses") + 1][0])
    assert found.image.symbols[symbol].name == "ex_handler_fault"


def test_traps_of_two_bytes_have_no_operand() -> None:
    """Else the second would lie in the first, and what its entry names in an instruction."""
    kernel = small()
    kernel.text.function("warns")
    for label in (".Lfirst", ".Lsecond"):
        kernel.text.label(label)
        kernel.text.put("0fff 58")
    kernel.text.put("c3")
    kernel.rodata().put(b"a.c\0")
    kernel.labels["file"] = (kernel.blocks[-1].va, 0, 0)
    bugs = kernel.block("__bug_table", DATA_VA, DATA)
    for label in (".Lfirst", ".Lsecond"):
        bugs.put(Word(label), Word("file"), struct.pack("<HH", 12, 1))
    assert recover(*ship(kernel)).fixed == ()


def test_words_of_kallsyms_are_not_taken_for_initcalls() -> None:
    kernel = small()
    for i in range(20):
        kernel.text.function(f"more_{i}", "c3", align=4)
    symbols = recover(*ship(kernel, kallsyms=Style.DISTANCES)).image.symbols
    assert symbols.address("__initcall_start") is None


def test_jump_table_is_found_between_other_data() -> None:
    kernel = small()
    keys = kernel.writable()
    keys.label("key")
    keys.put("00000000")
    for name in ("first", "second"):
        kernel.text.function(name, NOP5, "c3")
    table = kernel.rodata()
    table.put("11223344 55667788")
    start_va = table.end_va
    for name in ("first", "second"):
        table.put(Distance(name, relocated=False), Distance(name, 5, relocated=False))
        table.put(Distance("key", 1, relocated=False))
    end_va = table.put("01000000 02000000")
    symbols = recover(*ship(kernel)).image.symbols
    assert symbols.address("__start___jump_table") == start_va
    assert symbols.address("__stop___jump_table") == end_va


def test_initcalls_are_found() -> None:
    kernel = small()
    table = kernel.rodata()
    table.put("00000000")
    for name in ("start_kernel", "reads", "other", "reads") * 2:
        table.put(Distance(name, relocated=False))
    table.put("ffffffff")
    symbols = recover(*ship(kernel)).image.symbols
    assert symbols.address("__initcall_start") == table.va + 4
    assert symbols.address("__initcall_end") == table.va + 36


def test_border_is_where_padding_gives_room() -> None:
    """After the pinned function only a few bytes of padding are left."""
    kernel = small()
    kernel.writable().put(Distance("start_kernel", relocated=False))
    found = recover(*ship(kernel))
    following = found.image.section_by_name[".text.behind"]
    assert following.va == kernel.va("start_kernel")
    assert found.image.section_by_name[".text"].end_va == following.va


def test_bias_reaches_a_page_and_no_further() -> None:
    kernel = SmallKernel()
    kernel.text.function("near", "c3")
    kernel.text.function("asks", "8d0485", Word("near", 1), "c3")
    kernel.text.function("long", b"\x40" * 2 * BIAS, "c3")
    kernel.text.function("far", "c3")
    kernel.text.function("start_kernel", "c3")
    fixed = fixed_names(kernel)
    assert "asks" in fixed
    assert "far" not in fixed


def test_parts_of_kallsyms_are_named() -> None:
    symbols = recover(*ship(small())).image.symbols
    assert symbols.address("kallsyms_offsets") == KALLSYMS_VA
    count = symbols.address("kallsyms_num_syms")
    assert count is not None
    assert recover(*ship(small())).image.read(count, 4) == struct.pack("<I", 5)
