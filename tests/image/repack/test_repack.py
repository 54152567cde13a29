# SPDX-License-Identifier: MIT
"""Does boot code whose tail moved equal the same code linked there? Is what is unknown refused?"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.image.repack.forms import (
    FORMS,
    GNU,
    LINK_PA,
    BootCodeForm,
    Extra,
    FormFacts,
    WithLinkerTables,
    word,
)
from tests.image.repack.linked import (
    BSS_VA,
    RODATA_VA,
    TEXT_VA,
    bzimage,
    link,
    noisy_kernel,
    small_kernel,
)
from vmipatch.errors import UnclassifiedReference
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Compression, Packer, Recipe, pack_payload
from vmipatch.image.reloc_list import emit_list
from vmipatch.image.repack.payload_image import payload_image, stripped
from vmipatch.image.repack.repack import Repacked, repack
from vmipatch.image.setup_header import SetupHeader

RELOCS = (TEXT_VA + 4, TEXT_VA + 64)
GZIP = Recipe(Compression.GZIP, Packer.LIBRARY, "-n -9")
CODE_OFF = 4 * 512


def inside(elf: bytes) -> FormFacts:
    """The contents of boot code around `elf`, by arithmetic of its own."""
    image = ElfImage.parse(elf)
    unpacked = elf if elf.endswith(emit_list(RELOCS)) else elf + emit_list(RELOCS)
    end = max(s.pa + s.mem_len for s in image.loads)
    bss = image.section_by_name[".bss"]
    return FormFacts(
        payload=pack_payload(GZIP, unpacked),
        output_len=len(unpacked),
        total_len=-(-(end - LINK_PA) // 0x1000) * 0x1000,
        bss_len=image.section_by_name[".bss"].va - TEXT_VA,
        text_len=image.section_by_name[".rodata"].va - TEXT_VA,
        run_len=bss.off + end - LINK_PA + TEXT_VA - bss.va,
    )


OLD = inside(small_kernel())


def repacked(
    new: bytes, extra: Extra | None = None, old: bytes | None = None, form: BootCodeForm = GNU
) -> Repacked:
    data = old or bzimage(link(OLD, extra, form=form), OLD)
    return repack(data, BzImage.parse(data), ElfImage.parse(new), RELOCS, GZIP)


def expected(
    new: bytes, extra: Extra | None = None, form: BootCodeForm = GNU, was: FormFacts = OLD
) -> tuple[FormFacts, bytes, int]:
    kernel = inside(payload_image(stripped(ElfImage.parse(new)), RELOCS, LINK_PA, "new"))
    before = link(was, extra, form=form)
    room = before.text_off - before.payload_off
    distance = -(-max(len(kernel.payload) - room, 0) // 512) * 512
    return kernel, link(kernel, extra, before, distance, form).code, distance


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@settings(max_examples=6)
@given(
    added_len=st.integers(0, 60_000),
    bss_len=st.integers(1, 0x90000),
    shift=st.sampled_from([0, 0x1000, 0x5000]),
)
def test_moved_boot_code_is_what_linking_it_there_gives(
    form: BootCodeForm, added_len: int, bss_len: int, shift: int
) -> None:
    new = small_kernel(added_len, bss_len, shift)
    made = repacked(new, form=form)
    _, code, distance = expected(new, form=form)
    assert made.distance == distance
    assert made.data[CODE_OFF:-4] == code[:-4]


def test_kernel_that_packs_shorter_leaves_the_tail_where_it_is() -> None:
    builder_input = small_kernel(bss_len=0x1000)
    kernel = ElfImage.parse(builder_input)
    data = bzimage(link(OLD), OLD)
    made = repack(data, BzImage.parse(data), kernel, None, GZIP)
    assert made.distance == 0
    assert BzImage.parse(made.data).vmlinux == stripped(kernel)


def test_header_tells_the_new_lengths_and_places() -> None:
    new = small_kernel(50_000)
    made = repacked(new)
    kernel, code, distance = expected(new)
    linked = link(kernel, None, link(OLD), distance)
    header = SetupHeader.parse(made.data)
    assert header.syssize * 16 == len(code)
    assert header.payload_length == len(kernel.payload)
    assert header.handover_offset == linked.entry_off
    assert header.kernel_info_offset == linked.info_off
    unchanged = SetupHeader.parse(bzimage(link(OLD), OLD))
    assert replace(
        header, syssize=0, payload_length=0, handover_offset=0, kernel_info_offset=0, init_size=0
    ) == replace(
        unchanged, syssize=0, payload_length=0, handover_offset=0, kernel_info_offset=0, init_size=0
    )


def test_memory_suffices_for_the_last_segment_and_the_running_boot_code() -> None:
    new = small_kernel(50_000, bss_len=0x900000)
    made = repacked(new)
    kernel, _, distance = expected(new)
    linked = link(kernel, None, link(OLD), distance)
    running = linked.end_off - linked.text_off
    assert SetupHeader.parse(made.data).init_size >= kernel.total_len + running


@pytest.mark.parametrize("bss_len", [0, 0x20000])
def test_kernel_and_list_come_out_again(bss_len: int) -> None:
    """Without .bss the list does not follow the ELF file at once."""
    new = small_kernel(50_000, bss_len)
    made = BzImage.parse(repacked(new).data)
    assert made.relocs == RELOCS
    image = ElfImage.parse(made.vmlinux)
    original = ElfImage.parse(new)
    for mine, theirs in zip(image.loads, original.loads, strict=True):
        assert (mine.va, mine.file_len) == (theirs.va, theirs.file_len)
        assert image.data[mine.off :][: mine.file_len] == new[theirs.off :][: theirs.file_len]
    assert ".symtab" not in image.section_by_name


def test_crc_of_the_whole_is_right() -> None:
    assert zlib.crc32(repacked(small_kernel(50_000)).data) == 0xFFFFFFFF


def test_file_without_crc_gets_none() -> None:
    data = bzimage(link(OLD), OLD)
    data = data[:-4] + bytes(4)
    assert repacked(small_kernel(50_000), old=data).data[-4:] == bytes(4)


def test_bytes_after_the_image_are_reported() -> None:
    data = bzimage(link(OLD), OLD) + b"~Module signature appended~\n"
    assert repacked(small_kernel(9000), old=data).dropped == ("28 bytes after the image",)


_x = bytes.fromhex
KNOWN = {
    "a number that looks like the middle of the payload": (_x("8d 98"), word(-0x14800)),
    "a function of the tail": (_x("8d 83"), ("extract", 0)),
    "its own start": (_x("8d 83"), ("start", 0)),
    "back to startup_32": (_x("e9"), ("-start", 0)),
    "a number that is not a distance": (_x("3d 24770100"),),
    "before the payload": (_x("8b 84 83"), ("payload", -4)),
    "second byte of the payload": (_x("0f b6 83"), ("payload", 1)),
}


@pytest.mark.parametrize("parts", KNOWN.values(), ids=KNOWN)
def test_reference_is_led(parts: tuple[bytes | tuple[str, int], ...]) -> None:
    extra = Extra(text=parts)
    new = small_kernel(50_000)
    _, code, _ = expected(new, extra)
    assert repacked(new, extra).data[CODE_OFF:-4] == code[:-4]


UNKNOWN = {
    "last bytes of the payload": Extra(text=(_x("8d 83"), ("payload_end", -4))),
    "end of the payload": Extra(text=(_x("8d 83"), ("payload_end", 0))),
    "end of the payload, added": Extra(text=(_x("81 c3"), ("payload_end", 0))),
    "length of the boot code": Extra(text=(_x("b8"), ("=end", 0))),
    "branch into the head": Extra(text=(_x("e9"), ("-start", 13))),
    "length of the boot code in data": Extra(data=(("=bss", 0),)),
    "distance from the GOT in data": Extra(data=(("payload", 0),)),
}


@pytest.mark.parametrize("extra", UNKNOWN.values(), ids=UNKNOWN)
def test_word_of_unknown_meaning_is_refused(extra: Extra) -> None:
    with pytest.raises(UnclassifiedReference):
        repacked(small_kernel(50_000), extra)


@pytest.mark.parametrize("name", FORMS.keys() - {"2.6.26 to 2.6.29"})
def test_boot_code_for_another_payload_is_refused(name: str) -> None:
    form = FORMS[name]
    wrong = replace(OLD, payload=OLD.payload + b"\0", output_len=OLD.output_len + 1)
    right = link(OLD, form=form)
    tail = link(wrong, was=right, form=form).code[right.text_off :]
    linked = replace(right, code=right.code[: right.text_off] + tail)
    data = bzimage(linked, OLD)
    with pytest.raises(UnclassifiedReference):
        repacked(small_kernel(50_000), old=data)


@pytest.mark.parametrize("end", [-4, 0])
def test_old_boot_code_with_other_lengths_around_the_payload_is_refused(end: int) -> None:
    linked = link(OLD, form=FORMS["2.6.26 to 2.6.29"])
    payload_end = linked.payload_off + len(OLD.payload)
    at = CODE_OFF + (payload_end if end else linked.payload_off) - 4
    data = bytearray(bzimage(linked, OLD))
    data[at : at + 4] = word(OLD.output_len + 1 if end else len(OLD.payload) + 1)
    read = BzImage.parse(bzimage(linked, OLD))
    with pytest.raises(UnclassifiedReference):
        repack(bytes(data), read, ElfImage.parse(small_kernel(50_000)), RELOCS, GZIP)


LLD_UNKNOWN = {
    "address or number": Extra(text=(_x("b8"), ("rodata", 0))),
    "address without a register": Extra(text=(_x("a1"), ("data", 0))),
    "end of the payload": Extra(text=(_x("8d 83"), ("payload_end", 0))),
    "table that no code names": Extra(data=(("extract", 0),) * 8),
}


@pytest.mark.parametrize("extra", LLD_UNKNOWN.values(), ids=LLD_UNKNOWN)
def test_place_that_may_be_a_number_is_refused(extra: Extra) -> None:
    form = FORMS["lld"]
    data = bzimage(link(OLD, extra, form=form), OLD)
    with pytest.raises(UnclassifiedReference):
        repacked(small_kernel(50_000), old=data)


@pytest.mark.parametrize(("name", "moves"), [("5.8 on", False), ("3.13 to 4.6", True)])
def test_length_that_another_time_knew_is_a_number(name: str, moves: bool) -> None:
    """The one may have the value of the other: z_run_size that of kernel_total_size."""
    extra = Extra(text=(_x("3d"), word(OLD.run_len)))
    data = bzimage(link(OLD, extra, form=FORMS[name]), OLD)
    made = repacked(small_kernel(50_000), old=data)
    in_code = [change for change in made.changes if change.reason == "run_len"]
    assert len(in_code) == (2 if moves else 0)


def test_number_that_is_compared_is_a_number() -> None:
    """Position-independent code compares with no address."""
    form = FORMS["lld"]
    near = link(OLD, form=form).text_off + 0x10123
    extra = Extra(text=(_x("3d"), word(near)))
    new = small_kernel(50_000)
    _, code, _ = expected(new, extra, form)
    assert repacked(new, extra, form=form).data[CODE_OFF:-4] == code[:-4]


def test_length_that_is_an_offset_in_the_tail_is_a_number_where_assembly_pushes_it() -> None:
    form, was, new = FORMS["4.7 to 5.7"], inside(noisy_kernel()), noisy_kernel(9_000)
    linked = link(was, form=form)
    assert linked.text_off < was.output_len < linked.end_off
    _, code, distance = expected(new, form=form, was=was)
    made = repacked(new, old=bzimage(linked, was), form=form)
    assert distance and made.data[CODE_OFF:-4] == code[:-4]


def test_length_that_is_an_offset_in_the_tail_is_refused_where_it_may_be_an_address() -> None:
    was = inside(noisy_kernel())
    linked = link(was, form=FORMS["lld"])
    assert linked.text_off < was.bss_len < linked.end_off
    with pytest.raises(UnclassifiedReference, match="bss_len is a place in the tail, too"):
        repacked(noisy_kernel(9_000), old=bzimage(linked, was))


def test_jump_into_the_middle_of_the_head_is_refused() -> None:
    extra = Extra(text=(_x("e9"), ("-stub", 3)))
    data = bzimage(link(OLD, extra, form=FORMS["5.10 with EFI stub"]), OLD)
    with pytest.raises(UnclassifiedReference):
        repacked(small_kernel(50_000), old=data)


def test_entry_of_an_efi_stub_in_the_head_stays() -> None:
    form = FORMS["5.10 with EFI stub"]
    linked = link(OLD, form=form)
    assert 0 < linked.entry_off < linked.payload_off
    made = SetupHeader.parse(repacked(small_kernel(50_000), form=form).data)
    assert made.handover_offset == linked.entry_off


def test_old_protocol_is_not_told_how_much_memory_is_needed() -> None:
    """Before 2.10 the header has neither init_size nor the address that a kernel is linked for."""
    form = FORMS["2.6.26 to 2.6.29"]
    old = bzimage(link(OLD, form=form), OLD, version=0x0209)
    new = small_kernel(50_000)
    made = repacked(new, old=old, form=form)
    _, code, _ = expected(new, form=form)
    assert made.data[CODE_OFF:-4] == code[:-4]
    header = SetupHeader.parse(made.data)
    assert (header.version, header.init_size, header.pref_address) == (0x0209, 0, 0)


@pytest.mark.parametrize("gnu_hash", [False, True])
def test_tables_for_a_dynamic_linker_keep_their_words(gnu_hash: bool) -> None:
    form = WithLinkerTables(gnu_hash=gnu_hash)
    new, before = small_kernel(50_000), link(OLD, form=form)
    made = repacked(new, form=form)
    _, code, distance = expected(new, form=form)
    low, high = (off + distance for off in before.tables)
    whole = made.data[CODE_OFF:]
    assert distance and whole[low:high] == before.code[before.tables[0] : before.tables[1]]
    assert (whole[:low], whole[high:-4]) == (code[:low], code[high:-4])


def test_words_of_a_list_that_no_linker_makes_are_not_guessed() -> None:
    form = WithLinkerTables(gnu_hash=False, tag=99)
    with pytest.raises(UnclassifiedReference, match="spans the moving parts"):
        repacked(small_kernel(50_000), form=form)


def test_boot_code_of_another_build_is_refused() -> None:
    data = bytearray(bzimage(link(OLD), OLD))
    data[CODE_OFF + 8] = 0x90
    with pytest.raises(UnclassifiedReference):
        repacked(small_kernel(50_000), old=bytes(data))


def test_layout_constants_of_the_samples() -> None:
    assert (OLD.bss_len, OLD.text_len) == (BSS_VA - TEXT_VA, RODATA_VA - TEXT_VA)
    assert gzip.decompress(OLD.payload)[:4] == b"\x7fELF"
