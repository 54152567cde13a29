# SPDX-License-Identifier: MIT
"""What becomes of sites in a kernel whose references are not all certain?"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from tests.recover.stripped import ship
from tests.rewrite.smallkernel import DATA_VA, RODATA_VA, Branch, Distance, Part, SmallKernel, Word
from tests.support.elfbuilder import RODATA
from vmipatch.errors import MalformedImage, UnclassifiedReference
from vmipatch.image.elf import SECTION_HEADER_LEN, SHOFF_AT, ElfImage
from vmipatch.image.relocations import Relocations
from vmipatch.recover import recover
from vmipatch.recover.image import Recovered
from vmipatch.restore import restore
from vmipatch.rewrite import RewrittenImage, Treatment, rewrite
from vmipatch.scan.site import Reason
from vmipatch.verify.static import check_static

JUMP = 0xE9
FAR = 0x100
"""Code in front of the room, so that the runtime needs a near jump to start_kernel."""


@dataclass(frozen=True)
class Shipped:
    """A stripped kernel, and what was made of it."""

    kernel: SmallKernel
    source: ElfImage
    found: Recovered
    done: RewrittenImage
    image: ElfImage

    def treatments(self, name: str) -> list[Treatment]:
        """The treatments of the sites of a function."""
        va, _, size = self.kernel.labels[name]
        return [Treatment.of(s) for s in self.done.scan.sites if va <= s.va < va + size]

    def code(self, name: str, length: int) -> bytes:
        """Bytes at a function that did not move."""
        return self.image.read(self.kernel.va(name), length)

    def target(self, va: int) -> int:
        """Where the near jump at `va` leads."""
        assert self.image.read(va, 1)[0] == JUMP
        (distance,) = struct.unpack("<i", self.image.read(va + 1, 4))
        return va + 5 + int(distance)


def pinned(*parts: Part, neighbour: str = "c3", data: tuple[Part, ...] = ()) -> SmallKernel:
    """A kernel with a function `f` between code that may not move, without padding."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", Branch("e8", "f"), "c3")
    kernel.text.function("between", b"\x40" * FAR, "c3")
    kernel.text.function("f", *parts)
    kernel.text.function("after", neighbour, align=1)
    kernel.text.function("last", "c3")
    kernel.writable().put(
        Distance("f", relocated=False), "00000000", Distance("after", relocated=False), *data
    )
    return kernel


def shipped(kernel: SmallKernel, *, emptied: bool = False) -> Shipped:
    source, relocs = ship(kernel, emptied=emptied)
    found = recover(source, relocs)
    done = rewrite(found.kernel)
    image = ElfImage.parse(done.data, "rewritten")
    verdict = check_static(found.image, image, found.fixed)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    return Shipped(kernel, source, found, done, image)


def test_site_with_padding_after_it_grows_where_it_stands() -> None:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa 31c0 c3")
    kernel.text.function("between", b"\x40" * FAR, "c3")
    kernel.text.function("pinned", "c3")
    kernel.writable().put(Distance("pinned", relocated=False))
    done = shipped(kernel)
    assert done.treatments("start_kernel") == [Treatment.RELINKED]
    assert done.code("pinned", 1) == b"\xc3"
    assert not done.done.trampolines


def test_site_without_room_goes_through_a_trampoline() -> None:
    done = shipped(pinned("31c0 fa 89c8 89ca c3"))
    assert done.treatments("f") == [Treatment.TRAMPOLINE]
    window_va = done.kernel.va("f") + 2
    there = done.target(window_va)
    assert done.image.read(there, 9) == bytes.fromhex("3e3e3e3efa 89c8 89ca")
    assert done.target(there + 9) == window_va + 5
    assert done.code("f", 2) == bytes.fromhex("31c0")


def test_trampoline_does_not_come_back_after_a_return() -> None:
    done = shipped(pinned("31c0 fa 89c8 5b c3"))
    (trampoline,) = done.done.trampolines
    assert trampoline.code.endswith(b"\xc3")


def test_branches_taken_along_lead_where_they_led() -> None:
    done = shipped(pinned("fa", Branch("e8", "last"), "c3"))
    (trampoline,) = done.done.trampolines
    call_va = trampoline.va + 5
    assert done.image.read(call_va, 1) == b"\xe8"
    (distance,) = struct.unpack("<i", done.image.read(call_va + 1, 4))
    last = done.image.symbols.address("last")
    assert call_va + 5 + distance == last


def test_branch_into_every_window_leaves_the_site_native() -> None:
    done = shipped(pinned("eb01 fa 90 ebfd"))
    assert done.treatments("f") == [Treatment.NATIVE]


def test_pointer_after_the_site_leaves_it_native() -> None:
    kernel = pinned("fa 90 c3", data=(Word("f", 1), Word("f", 2)))
    done = shipped(kernel)
    assert done.treatments("f") == [Treatment.NATIVE]
    (site,) = (s for s in done.done.scan.sites if s.va == kernel.va("f"))
    assert site.reason is Reason.NO_ROOM
    assert done.code("f", 3) == bytes.fromhex("fa 90 c3")


def test_silent_site_that_stays_has_a_fallback() -> None:
    kernel = pinned("9c 90 c3", data=(Word("f", 1), Word("f", 2)))
    done = shipped(kernel)
    assert done.treatments("f") == [Treatment.NATIVE]
    table = done.image.section_bytes(done.image.section_by_name[".vmi.fallback"])
    assert struct.pack("<II", kernel.va("f"), 0x9C) in table


def test_instruction_with_an_address_takes_its_relocation_along() -> None:
    kernel = pinned("fa a1", Word("datum"), "c3")
    kernel.labels["datum"] = (DATA_VA, 0, 0)
    done = shipped(kernel)
    (trampoline,) = done.done.trampolines
    word_va = trampoline.va + 6
    assert trampoline.words == {kernel.va("f") + 2: word_va}
    assert done.image.read(word_va, 4) == struct.pack("<I", DATA_VA)
    entries = Relocations.of(done.image).entries
    assert word_va in entries["va"]
    assert kernel.va("f") + 2 not in entries["va"]


def test_instruction_that_sti_shadows_goes_along() -> None:
    done = shipped(pinned("89c8 89ca fb 31c0 c3"))
    (trampoline,) = done.done.trampolines
    assert bytes.fromhex("3e3e3e3efb 31c0") in trampoline.code


def test_site_in_doubtful_code_stays_native() -> None:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "b8", Word("asks", 1), "c3")
    kernel.text.put(b"\x40" * 0x3000)
    kernel.text.function("far", "c3")
    kernel.text.function("asks", "8d0485", Word("doubted", 1), "c3")
    kernel.text.function("doubted", "fa 31c0 31c0 c3")
    source, relocs = ship(kernel)
    found = recover(source, relocs)
    done = rewrite(found.kernel)
    (site,) = (s for s in done.scan.sites if s.va == kernel.va("doubted"))
    assert Treatment.of(site) is Treatment.NATIVE
    assert site.reason is Reason.FIXED


def test_note_gives_the_stripped_kernel_back() -> None:
    done = shipped(pinned("31c0 fa 89c8 89ca c3"))
    assert restore(done.image).data == done.source.data


def test_jumps_are_counted() -> None:
    done = shipped(pinned("31c0 fa 89c8 89ca c3"))
    assert done.done.added_instructions == 2


def exception_kernel(insn_off: int) -> SmallKernel:
    """An exception table whose one entry is for what stands `insn_off` bytes into `f`."""
    kernel = pinned("0f32 c3 31c0 c3")
    kernel.labels[".Lrdmsr"] = (kernel.va("f") + insn_off, 0, 0)
    kernel.labels[".Lfixup"] = (kernel.va("f") + 3, 0, 0)
    table = kernel.block("__ex_table", RODATA_VA, RODATA)
    table.put(
        Distance(".Lrdmsr", relocated=False), Distance(".Lfixup", relocated=False), "03000000"
    )
    kernel.bounds("__start___ex_table", "__stop___ex_table", table)
    return kernel


def test_exception_table_that_leads_into_an_instruction_is_refused() -> None:
    assert shipped(exception_kernel(0)).done.data
    with pytest.raises(UnclassifiedReference, match="__ex_table leads into the middle") as caught:
        shipped(exception_kernel(1))
    assert f"{RODATA_VA:#x}" in str(caught.value.place)


def test_relocation_sections_without_bytes_and_symbols_stop_nobody() -> None:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa fb", Branch("e8", "f"), "c3")
    kernel.text.function("f", "9c 58 c3")
    kernel.writable().put(Word("f"))
    found = shipped(kernel, emptied=True)
    empty = found.source.section_by_name[".rel.text"]
    assert (empty.size, empty.link) == (0, 0)
    assert found.treatments("start_kernel") == [Treatment.RELINKED] * 2
    assert check_static(found.found.image, found.image, found.found.fixed).holds
    assert restore(found.image).data == found.source.data


def test_kernel_that_links_relocations_to_no_symbols_is_damaged() -> None:
    kernel = SmallKernel()
    kernel.writable().put(Word("startup_32"))
    data = bytearray(kernel.build())
    image = kernel.image()
    header = SHOFF_AT, SECTION_HEADER_LEN * image.section_by_name[".rel.data"].index
    (headers_off,) = struct.unpack_from("<I", data, header[0])
    struct.pack_into("<I", data, headers_off + header[1] + 24, 0)
    with pytest.raises(MalformedImage, match="section 0 is not a SYMTAB"):
        ElfImage.parse(bytes(data))
