# SPDX-License-Identifier: MIT
"""Does the note in a rewritten kernel give the input back, to the last byte?"""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.restore.small import kernel_with_everything
from tests.rewrite.smallkernel import Branch, Short, SmallKernel, Word
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.types import Section, SectionFlag, SectionKind
from vmipatch.restore import Gives, Wanted, add_note, restore, without_note
from vmipatch.restore.runs import WithoutNote
from vmipatch.restore.take import with_note
from vmipatch.rewrite import RewriteOptions, rewrite
from vmipatch.verify.static import check_static
from vmipatch.verify.static.reproduce.check import check_file

each_padding = pytest.mark.parametrize("padding", list(Padding))
CODE = ("fa", "fb", "9c", "9d", "f4", "0f 20 d8", "fb f4", "90", "31 c0", "0f 31", "e4 10")
"""Sites of several shapes, and instructions that are not sites."""


def given_back(original: ElfImage, padding: Padding = Padding.PREFIX) -> bytes:
    done = rewrite(original, RewriteOptions(padding))
    return restore(ElfImage.parse(done.data)).data


@each_padding
@pytest.mark.parametrize("room", (True, False), ids=("absorb", "shift"))
def test_the_input_comes_back_to_the_last_byte(padding: Padding, room: bool) -> None:
    kernel = kernel_with_everything(room=room)
    assert kernel.rewrite(padding).is_shifted is not room
    assert given_back(kernel.image(), padding) == kernel.build()


def test_a_note_says_what_it_gives_before_it_is_used() -> None:
    kernel = kernel_with_everything()
    noted = kernel.rewrite().done.noted
    assert noted.gives is Gives.INPUT
    assert noted.sha256 == hashlib.sha256(kernel.build()).hexdigest()
    section = ElfImage.parse(noted.data).section_by_name[".vmi.restore"]
    assert noted.note_len == section.size


def test_a_note_is_not_loaded() -> None:
    image = kernel_with_everything().rewrite().image
    section = image.section_by_name[".vmi.restore"]
    assert section.va == 0
    assert all(section.off >= load.off + load.file_len for load in image.loads)


def test_the_same_input_gets_the_same_note() -> None:
    first, second = (kernel_with_everything().rewrite().done.data for _ in range(2))
    assert first == second


def test_filler_that_is_used_up_comes_back_as_it_was() -> None:
    kernel = SmallKernel(room=False)
    for index in range(40):
        kernel.text.function(f"f{index}", "fa fb c3", filler=bytes([0x90]))
        kernel.text.put("8d b6 00 00 00 00 89 f6")
    assert given_back(kernel.image()) == kernel.build()


def test_a_note_that_was_told_of_no_change_is_longer_and_still_right() -> None:
    kernel = kernel_with_everything()
    done = kernel.rewrite()
    bare = without_note(done.image).data
    noted = add_note(bare, Wanted(kernel.image()), [])
    assert noted.note_len > done.done.noted.note_len
    assert restore(ElfImage.parse(noted.data)).data == kernel.build()


def test_bytes_that_only_look_like_addresses_stay() -> None:
    kernel = kernel_with_everything()
    lookalikes = kernel.block("lookalikes", 0xC1060000, SectionFlag.ALLOC)
    for offset in range(0, 0x4200, 7):
        lookalikes.put((0xC1000000 + offset).to_bytes(4, "little"))
    kernel.text.function("odd", "b8", (kernel.va("g") + 1).to_bytes(4, "little"), "c3")
    assert given_back(kernel.image()) == kernel.build()


@settings(max_examples=25)
@given(
    bodies=st.lists(st.lists(st.sampled_from(CODE), max_size=6), min_size=1, max_size=5),
    tail=st.binary(max_size=40),
    padding=st.sampled_from(Padding),
)
def test_any_kernel_comes_back(bodies: list[list[str]], tail: bytes, padding: Padding) -> None:
    kernel = SmallKernel()
    for index, body in enumerate(bodies):
        following = f"f{(index + 1) % len(bodies)}"
        kernel.text.function(f"f{index}", *body, Branch("e8", following), Short("eb", f"f{index}"))
    kernel.rodata().put(*(Word(f"f{index}") for index in range(len(bodies))), tail)
    assert given_back(kernel.image(), padding) == kernel.build()


def kernel_with_debug() -> ElfImage:
    """A kernel whose debug sections lie where builds put them, after what is loaded."""
    kernel = kernel_with_everything()
    kernel.text.function("start_kernel", "c3")
    plain = kernel.image()
    index = len(plain.sections)
    header = Section(
        index, ".debug_info", SectionKind.PROGBITS, SectionFlag.NONE, 0, 0, 6000, 0, 0, 1, 0
    )
    contents = [Content(s, plain.section_bytes(s)) for s in plain.sections]
    contents.append(Content(header, b"stale " * 1000))
    loaded = max(s.off + s.file_len for s in plain.loads)
    return ElfImage.parse(write_elf(plain, plain.data[:loaded], contents, plain.segments))


def test_what_is_copied_does_not_depend_on_the_note() -> None:
    """Its section's header may lie among what a note copies, as in 2.6.32 with our boot code."""
    bare = without_note(ElfImage.parse(rewrite(kernel_with_everything().image()).data))
    noted = ElfImage.parse(with_note(bare, b"note" * 16))
    length = len(bare.data)
    assert noted.data[:length] != bare.data, "the header, or nothing was tried"
    assert WithoutNote.of(noted, length, b"list").data == WithoutNote.of(bare, length, b"list").data


def test_without_its_debug_sections_the_input_is_still_the_same_kernel() -> None:
    original = kernel_with_debug()
    done = rewrite(original)
    assert done.noted.gives is Gives.WITHOUT_DEBUG
    restored = ElfImage.parse(restore(ElfImage.parse(done.data)).data)
    assert [s.name for s in restored.sections] == [s.name for s in original.sections]
    for was, now in zip(original.sections, restored.sections, strict=True):
        kept = b"" if was.is_debug else original.section_bytes(was)
        assert restored.section_bytes(now) == kept, was.name
    assert restored.segments == original.segments
    again = ElfImage.parse(rewrite(restored).data)
    # Its file says that it was made from another one; all else is as if it was made from this.
    found = check_static(original, again).totals
    assert set(found) <= set(check_file.rules)


def test_debug_sections_come_back_if_they_were_kept() -> None:
    original = kernel_with_debug()
    done = rewrite(original, RewriteOptions(keep_original=True))
    output = ElfImage.parse(done.data)
    assert output.section_by_name[".debug_info"].size == 0
    assert done.noted.gives is Gives.INPUT
    assert restore(output).data == original.data
