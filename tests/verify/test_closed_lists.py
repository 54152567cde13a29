# SPDX-License-Identifier: MIT
"""Is everything refused that an output has and no rule calls for?"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.verify.edit import (
    ADDR,
    ALIGN,
    ENTRY,
    FLAGS,
    INFO,
    LINK,
    OFFSET,
    PROGBITS,
    REL,
    RELA,
    SIZE,
    TYPE,
    FileEdit,
)  # fmt: skip
from tests.verify.pair import DATA_VA, small_pair
from tests.verify.test_module import sample
from vmipatch.errors import MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite.module import rewrite_module
from vmipatch.verify.static import check_static
from vmipatch.verify.static.module import check_module

ORIGINAL, OUTPUT = small_pair()


UNREADABLE = "MalformedImage"
"""Stands for a rule where the headers contradict each other, so that the file is not opened."""


def broken(edit: FileEdit) -> set[str]:
    """The rules that are broken by a changed output of the small kernel."""
    try:
        return {rule.number for rule in check_static(ORIGINAL, edit.image()).totals}
    except MalformedImage:
        return {UNREADABLE}


def is_refused(edit: FileEdit, number: str) -> bool:
    """Whether a change breaks a rule, or is not even opened."""
    return bool(broken(edit) & {number, UNREADABLE})


def va(name: str) -> int:
    """The address of a symbol in the output."""
    found = OUTPUT.symbols.address(name)
    assert found is not None
    return found


def symbol(name: str) -> int:
    """The number of a symbol."""
    return OUTPUT.symbols.by_name[name].index


def test_editor_changes_nothing_by_itself() -> None:
    assert broken(FileEdit.of(OUTPUT)) == set()


@pytest.mark.parametrize("name", (".rel.vmi.extra", ".rel.text2"))
@pytest.mark.parametrize("kind", (REL, RELA))
def test_relocation_does_not_hide_a_changed_word(name: str, kind: int) -> None:
    """mov eax, 0x80000000 of startup_32 is not a reference, whatever the output says of it."""
    edit = FileEdit.of(OUTPUT)
    word_va = va("startup_32") + 1
    edit.put(word_va, struct.pack("<I", 0x12345678))
    entry = struct.pack("<II", word_va, symbol("pointers") << 8 | 1)
    if kind == RELA:
        entry += bytes(4)
    edit.add_section(
        name, kind, entry,
        link=edit.index(".symtab"), info=edit.index(".text"), align=4, entry=len(entry),
    )  # fmt: skip
    assert {"VP001", "VP052"} <= broken(edit)


def test_relocation_in_a_section_of_the_original_does_not_hide_a_changed_word() -> None:
    edit = FileEdit.of(OUTPUT)
    word_va = va("startup_32") + 1
    edit.put(word_va, struct.pack("<I", 0x12345678))
    more = struct.pack("<II", word_va, symbol("pointers") << 8 | 1)
    edit.rewrite(".rel.text", edit.content(".rel.text") + more)
    assert {"VP001", "VP011"} <= broken(edit)


@pytest.mark.parametrize(
    "applies_to", (".vmi.thunks", ".vmi.fallback", ".vmi.annotation", ".vmi.translation", ".data")
)
def test_added_relocations_are_found(applies_to: str) -> None:
    edit = FileEdit.of(OUTPUT)
    place = edit.head(applies_to)[ADDR]
    entry = struct.pack("<II", place, symbol("pointers") << 8 | 1)
    edit.add_section(
        f".rel{applies_to}x", REL, entry,
        link=edit.index(".symtab"), info=edit.index(applies_to), align=4, entry=8,
    )  # fmt: skip
    assert is_refused(edit, "VP052")


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        (".vmi.backdoor", {}),
        (".vmi.backdoor", {"flags": 2, "addr": 0xC1500000}),
        (".vmi.backdoor", {"flags": 6, "addr": 0xC1500000}),
        (".vmi.manifest", {}),
        (".vmi.restore", {}),
        (".vmi.text", {}),
        (".vmi.trampolines", {}),
        (".vmi", {}),
        (".comment", {}),
        ("", {}),
    ],
)
def test_section_that_is_not_on_the_list_is_found(name: str, columns: dict[str, int]) -> None:
    edit = FileEdit.of(OUTPUT)
    edit.add_section(name, PROGBITS, b"anything", **columns)
    assert "VP052" in broken(edit)


def test_code_in_a_section_of_its_own_is_found() -> None:
    """The end of the added code, cut off and called another name."""
    edit = FileEdit.of(OUTPUT)
    text = edit.head(".vmi.text")
    text[SIZE] -= 64
    start_va, off = text[ADDR] + text[SIZE], text[OFFSET] + text[SIZE]
    edit.add_section(".vmi.backdoor", PROGBITS, flags=6, addr=start_va, offset=off, size=64)
    assert "VP052" in broken(edit)


ADDED = (
    ".vmi.text", ".vmi.annotation", ".vmi.annotation.init", ".vmi.thunks", ".vmi.fallback",
    ".vmi.translation", ".rel.vmi.text", ".vmi.manifest", ".vmi.restore",
)  # fmt: skip


@pytest.mark.parametrize("column", (TYPE, FLAGS, LINK, INFO, ALIGN, ENTRY))
@pytest.mark.parametrize("name", ADDED)
def test_header_of_an_added_section_has_one_form(name: str, column: int) -> None:
    edit = FileEdit.of(OUTPUT)
    edit.head(name)[column] ^= 0x200000 if column == FLAGS else 8
    assert is_refused(edit, "VP052")


@pytest.mark.parametrize("bit", (0x10, 0x20, 0x40, 0x200, 0x400, 0x800, 0x200000, 0x80000000))
def test_flags_are_compared_whole(bit: int) -> None:
    """Such as SHF_RO_AFTER_INIT, for which Linux's module loader takes the right to write."""
    edit = FileEdit.of(OUTPUT)
    edit.head(".data")[FLAGS] ^= bit
    assert "VP050" in broken(edit)


def moved(distance: int) -> Callable[[FileEdit], None]:
    """Records and all else of their segment, moved as a whole."""

    def move(edit: FileEdit) -> None:
        names = [name for name in ADDED if name.startswith(".vmi.") and name != ".vmi.text"]
        for name in names:
            head = edit.head(name)
            if head[FLAGS] & 2:
                head[ADDR] += distance
        (phoff,) = struct.unpack_from("<I", edit.data, 28)
        (count,) = struct.unpack_from("<H", edit.data, 44)
        at = phoff + 32 * (count - 1)
        for field in (at + 8, at + 12):
            (word,) = struct.unpack_from("<I", edit.data, field)
            struct.pack_into("<I", edit.data, field, word + distance)

    return move


@pytest.mark.parametrize("pages", (1, 16, 0x20000))
def test_records_that_are_not_right_after_the_kernel_are_found(pages: int) -> None:
    edit = FileEdit.of(OUTPUT)
    moved(pages * 0x1000)(edit)
    assert "VP052" in broken(edit)


@pytest.mark.parametrize("name", ("start_kernel",))
@pytest.mark.parametrize("distance", (1, 16, -16, 0x40))
def test_redirect_to_another_place_of_the_runtime_is_found(name: str, distance: int) -> None:
    edit = FileEdit.of(OUTPUT)
    manifest = edit.manifest()
    manifest["redirect"] = [[old, new + distance] for old, new in manifest["redirect"]]
    assert manifest["redirect"]
    edit.set_manifest(manifest)
    assert {"VP007", "VP071"} & broken(edit)


def test_lost_and_doubled_sections_of_the_list_are_found() -> None:
    for name in (".vmi.thunks", ".vmi.fallback", ".rel.vmi.text", ".vmi.translation"):
        edit = FileEdit.of(OUTPUT)
        index = edit.index(name)
        edit.heads[index] = list(edit.head(".vmi.manifest"))
        assert is_refused(edit, "VP052"), name


MODULE = sample()
REWRITTEN = rewrite_module(MODULE, "small").data


def broken_module(edit: FileEdit) -> set[str]:
    """The rules that are broken by a changed module."""
    try:
        return {rule.number for rule in check_module(MODULE, edit.file()).totals}
    except MalformedImage:
        return {UNREADABLE}


def module() -> FileEdit:
    """The rewritten module, to be changed."""
    return FileEdit.of(ElfImage.parse(REWRITTEN, "module"))


def test_relocation_does_not_turn_a_constant_of_a_module_into_an_address() -> None:
    for applies_to, place in ((".text", 0), (".data", 4)):
        edit = module()
        assert broken_module(edit) == set()
        entry = struct.pack("<II", place, 1 << 8 | 1)
        edit.add_section(
            ".rel.vmi.extra", REL, entry,
            link=edit.index(".symtab"), info=edit.index(applies_to), align=4, entry=8,
        )  # fmt: skip
        assert "VP052" in broken_module(edit), applies_to


@pytest.mark.parametrize("bit", (0x200, 0x800, 0x200000))
@pytest.mark.parametrize("name", (".text", ".data", ".vmi.text", ".vmi.thunks"))
def test_flags_of_a_module_are_compared_whole(name: str, bit: int) -> None:
    edit = module()
    edit.head(name)[FLAGS] ^= bit
    assert broken_module(edit) & {"VP050", "VP052"}


def test_data_va_is_in_data() -> None:
    """The words that the tests above relocate are data of the small kernel."""
    section = OUTPUT.section_at(DATA_VA)
    assert section is not None and section.name == ".data"
