# SPDX-License-Identifier: MIT
"""Tables that the build changed after the link, operands, and what only looks like an address.

Each is rewritten, proven, and no longer proven once a word of it is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.rewrite.smallkernel import (
    INIT_DATA_VA,
    RODATA_VA,
    TEXT_VA,
    Branch,
    Distance,
    RewrittenSmall,
    SmallKernel,
    Word,
)
from tests.support.elfbuilder import RODATA
from vmipatch.errors import UnclassifiedReference
from vmipatch.image.elf import ElfImage
from vmipatch.verify.static import check_static
from vmipatch.verify.static.verdict import StaticVerdict

FOUR_SITES = "fafbfafb"
WRONG_WORD, DATA_CHANGED, OUT_OF_ORDER, NO_IMAGE = "VP020", "VP040", "VP021", "VP006"


@dataclass(frozen=True, slots=True)
class Proven:
    """A rewritten kernel that the proof holds for."""

    done: RewrittenSmall

    @classmethod
    def of(cls, kernel: SmallKernel) -> Proven:
        done = kernel.rewrite()
        verdict = check_static(kernel.image(), done.image)
        assert verdict.holds, "\n".join(map(str, verdict.findings))
        return cls(done)

    def with_word(self, va: int, value: int) -> StaticVerdict:
        """The proof's verdict once the word at `va` is another."""
        data = bytearray(self.done.image.data)
        off = self.done.image.offset_of(va)
        data[off : off + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
        return check_static(self.done.kernel.image(), ElfImage.parse(bytes(data), "wrong"))


def rules_of(verdict: StaticVerdict) -> set[str]:
    return {rule.number for rule in verdict.totals}


def sorted_exceptions(*, shuffled: bool) -> tuple[SmallKernel, int]:
    """Two loads with fixups; the table's relocations are right, or name each other's symbols."""
    kernel = SmallKernel()
    for name in ("f", "g"):
        kernel.text.function(name, FOUR_SITES, "8b00 c3", FOUR_SITES, "31c0 c3")
        kernel.labels[f"{name}_load"] = (kernel.va(name) + 4, 0, 0)
        kernel.labels[f"{name}_fixup"] = (kernel.va(name) + 11, 0, 0)
    table = kernel.block("__ex_table", RODATA_VA, RODATA)
    start = table.end_va
    for name, other in (("f", "g"), ("g", "f")):
        spoilt = other if shuffled else name
        table.put(
            Distance(f"{name}_load", named=f"{spoilt}_load"),
            Distance(f"{name}_fixup", named=f"{spoilt}_fixup"),
            "03000000",
        )
    kernel.bounds("__start___ex_table", "__stop___ex_table", table)
    return kernel, start


@pytest.mark.parametrize("shuffled", (False, True))
def test_words_of_a_sorted_table_are_believed_and_its_relocations_are_not(shuffled: bool) -> None:
    kernel, start = sorted_exceptions(shuffled=shuffled)
    proven = Proven.of(kernel)
    done = proven.done
    for i, name in enumerate("fg"):
        assert done.image.read(done.pointee(start + 12 * i), 2) == bytes.fromhex("8b00")
        assert done.pointee(start + 12 * i) == done.va(f"{name}_load")
        assert done.pointee(start + 12 * i + 4) == done.va(f"{name}_fixup")
    verdict = proven.with_word(start + 4, done.word(start + 4) + 1)
    assert WRONG_WORD in rules_of(verdict)


def emptied_calls() -> tuple[SmallKernel, int]:
    """A list of calls whose first entry the build emptied; all relocations are where they were."""
    kernel = SmallKernel()
    kernel.text.function("trace", "c3")
    kernel.text.function("f", FOUR_SITES, "c3")
    for name in ("g", "h"):
        kernel.text.function(name, Branch("e8", "trace"), FOUR_SITES, "c3", filler=b"\xcc")
    kernel.labels["nothing"] = (0, 0, 0)
    table = kernel.block(".init.data", INIT_DATA_VA, RODATA)
    start = table.put(Word("nothing", named="h"), Word("g", named="f"), Word("h", named="g"))
    kernel.bounds("__start_mcount_loc", "__stop_mcount_loc", table)
    return kernel, start


def test_emptied_entries_stay_empty() -> None:
    kernel, start = emptied_calls()
    proven = Proven.of(kernel)
    done = proven.done
    words = [done.word(start + 4 * i) for i in range(3)]
    assert words == [0, done.va("g"), done.va("h")]
    assert not proven.with_word(start, done.va("g")).holds
    assert WRONG_WORD in rules_of(proven.with_word(start + 4, done.va("h")))


def patched_operands(*, at: int = 1) -> tuple[SmallKernel, int]:
    """A mov and a shr whose operands the kernel sets at boot."""
    kernel = SmallKernel()
    kernel.text.function("f", FOUR_SITES, "b8efcdab89 c3")
    kernel.text.function("g", FOUR_SITES, "c1e80c c3")
    kernel.labels[".Lpointer"] = (kernel.va("f") + 4 + at, 0, 0)
    kernel.labels[".Lcount"] = (kernel.va("g") + 6, 0, 0)
    pointers = kernel.block("runtime_ptr_table", RODATA_VA, RODATA)
    start = pointers.put(Distance(".Lpointer"))
    counts = kernel.block("runtime_shift_bits", RODATA_VA + 8, RODATA)
    counts.put(Distance(".Lcount"))
    kernel.bounds("__start_runtime_ptr_table", "__stop_runtime_ptr_table", pointers)
    kernel.bounds("__start_runtime_shift_bits", "__stop_runtime_shift_bits", counts)
    return kernel, start


def test_operands_follow_their_instructions() -> None:
    kernel, start = patched_operands()
    proven = Proven.of(kernel)
    done = proven.done
    pointer, count = done.pointee(start), done.pointee(start + 8)
    assert done.image.read(pointer - 1, 6) == bytes.fromhex("b8efcdab89c3")
    assert done.image.read(count - 2, 4) == bytes.fromhex("c1e80cc3")
    assert pointer > done.va("f") + 5
    for distance in (-1, 1):
        verdict = proven.with_word(start, done.word(start) + distance)
        assert WRONG_WORD in rules_of(verdict)


def test_operand_that_another_decoding_has_is_refused() -> None:
    """The bytes look right, but a longer instruction holds them."""
    kernel = SmallKernel()
    # cmp eax, 0xcdefb890; the b8 inside looks like the mov.
    kernel.text.function("f", FOUR_SITES, "81f8 90b8efcd ab 89c0 c3")
    kernel.labels[".Lpointer"] = (kernel.va("f") + 8, 0, 0)
    pointers = kernel.block("runtime_ptr_table", RODATA_VA, RODATA)
    pointers.put(Distance(".Lpointer"))
    kernel.bounds("__start_runtime_ptr_table", "__stop_runtime_ptr_table", pointers)
    with pytest.raises(UnclassifiedReference, match="names no operand of this instruction"):
        kernel.rewrite()


def with_absolute_symbols(*, room: bool) -> SmallKernel:
    """Checksums that look like addresses, and the end that an old linker called absolute."""
    kernel = SmallKernel(room=room)
    kernel.text.function("f", FOUR_SITES * 8, "c3")
    kernel.writable().put("00000000")
    kernel.absolute["__crc_f"] = TEXT_VA + 0x1234
    kernel.absolute["__crc_g"] = kernel.blocks[-1].va
    kernel.absolute["_old_end"] = kernel.blocks[-1].end_va
    return kernel


@pytest.mark.parametrize("room", (True, False))
def test_checksums_stay_and_addresses_without_a_section_move(room: bool) -> None:
    kernel = with_absolute_symbols(room=room)
    done = Proven.of(kernel).done
    assert done.is_shifted is not room
    assert done.va("__crc_f") == TEXT_VA + 0x1234
    assert done.va("__crc_g") == kernel.absolute["__crc_g"]
    shift = done.done.placement.shift_len
    assert done.va("_old_end") == kernel.absolute["_old_end"] + shift
