# SPDX-License-Identifier: MIT
"""Do functions that the kernel enters by computed addresses keep their distances?"""

from __future__ import annotations

import numpy as np
import pytest

from tests.recover.stripped import ship
from tests.rewrite.smallkernel import Distance, RewrittenSmall, SmallKernel, Word
from tests.support.elfbuilder import RODATA
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_FUNC, STT_NOTYPE
from vmipatch.recover import recover
from vmipatch.rewrite import rewrite
from vmipatch.scan import code
from vmipatch.scan.code import CodeMap
from vmipatch.scan.entry_arrays import EntryArray, entry_arrays
from vmipatch.scan.scan import scan
from vmipatch.scan.site import Disposition, Reason
from vmipatch.verify.static import check_static
from vmipatch.verify.static.rules import COMPUTED_ENTRY

ADDITIONS = ("00d0 c3", "6601d0 c3", "01d0 c3")
"""add al, dl; add ax, dx; add eax, edx: FASTOP2 of arch/x86/kvm/emulate.c without quad words."""
NAMES = ("addb_al_dl", "addw_ax_dx", "addl_eax_edx")
GROWN = "fa fb fa 0f20d8 0f22d8 b8"
"""Sites in front, which grow by an odd number of bytes, and a word that names the array."""
EX_TABLE_VA = 0xC1018000


def emulator(
    stride: int = 8,
    entries: tuple[str, ...] = ADDITIONS,
    *,
    kind: int = STT_NOTYPE,
    in_front: str = "",
    first: int = 0,
) -> SmallKernel:
    """Entries of `em_add`, which is of `kind`; `first` bytes of it are in front of the entries."""
    kernel = SmallKernel()
    text = kernel.text
    text.function("start_kernel", GROWN, Word("em_add"), "ffd0 c3")
    text.put("c3")
    text.align(64)
    text.put(in_front)
    text.align(stride, b"\x40")
    start_va = text.end_va
    text.put(b"\x90" * first)
    for name, entry in zip(NAMES, entries, strict=True):
        text.function(name, entry, align=stride)
    kernel.labels["em_add"] = start_va, kind, 0 if kind == STT_NOTYPE else text.end_va - start_va
    text.function("other", "fa fb c3")
    text.function("last", "c3")
    return kernel


def proven(kernel: SmallKernel) -> RewrittenSmall:
    """The rewritten kernel, which its proof accepts."""
    done = kernel.rewrite()
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    return done


def distances(done: RewrittenSmall) -> list[int]:
    """How far each entry of the output is from em_add."""
    return [done.va(name) - done.va("em_add") for name in NAMES]


@pytest.mark.parametrize("kind", (STT_NOTYPE, STT_FUNC))
@pytest.mark.parametrize("stride", (4, 8, 16, 32))
def test_entries_keep_their_distances_and_alignments(stride: int, kind: int) -> None:
    kernel = emulator(stride, kind=kind, in_front="40 c3")
    done = proven(kernel)
    assert distances(done) == [0, stride, 2 * stride]
    assert done.va("em_add") != kernel.va("em_add")
    for name in NAMES:
        aligned = {unit for unit in (4, 8, 16, 32, 64) if kernel.va(name) % unit == 0}
        assert stride in aligned
        assert not any(done.va(name) % unit for unit in aligned)


def test_function_that_ends_where_the_array_begins_keeps_its_size() -> None:
    kernel = emulator(in_front="40 c3 90 90 90 90 90")
    va = kernel.va("em_add") - 1
    kernel.labels["in_front"] = va, STT_FUNC, 1
    done = proven(kernel)
    assert distances(done) == [0, 8, 16]
    assert done.image.symbols.by_name["in_front"].size == 1


@pytest.mark.parametrize("fill", ("00", "0000", "0000cc", "0000cccc", "0000cccc00"))
@pytest.mark.parametrize("stride", (8, 16))
def test_padding_in_front_of_an_array_comes_before_what_the_linker_filled_in(
    stride: int, fill: str
) -> None:
    gap = bytes.fromhex(fill)
    kernel = emulator(stride, in_front="fa" + "40" * (stride - 2 - len(gap)) + "c3" + fill)
    done = proven(kernel)
    assert not done.va("em_add") % stride
    assert distances(done) == [0, stride, 2 * stride]
    assert done.image.read(done.va("em_add") - len(gap), len(gap)) == gap


def test_entries_after_the_beginning_of_their_function_keep_their_distance_to_it() -> None:
    assert distances(proven(emulator(8, kind=STT_FUNC, first=16))) == [16, 24, 32]


def test_entries_of_a_kernel_alone_keep_their_distances() -> None:
    kernel = emulator(kind=STT_FUNC)
    found = recover(*ship(kernel))
    output = ElfImage.parse(rewrite(found.kernel).data)
    verdict = check_static(found.image, output, found.fixed)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    now = [output.symbols.by_name[name].va for name in ("em_add", *NAMES)]
    assert [va - now[0] for va in now[1:]] == [0, 8, 16]
    assert CodeMap.of(found.image).arrays


def test_site_between_entries_stays_native_and_one_after_the_last_distance_does_not() -> None:
    kernel = emulator(8, ("9c 58 c3", "c3", "fa fb c3"))
    found = {site.va: site for site in scan(kernel.image()).sites}
    inside, after = (found[kernel.va(name)] for name in (NAMES[0], NAMES[2]))
    assert (inside.disposition, inside.reason) == (
        Disposition.NATIVE_UNPRIVILEGED,
        Reason.FIXED_STRIDE,
    )
    assert after.disposition is Disposition.REWRITTEN
    assert distances(proven(kernel)) == [0, 8, 16]


def test_arrays_that_follow_each_other_are_kept_as_one() -> None:
    kernel = emulator()
    arrays = CodeMap.of(kernel.image()).arrays
    kernel = emulator()
    kernel.text.align(8)
    start_va = kernel.text.end_va
    for at in range(6):
        kernel.text.function(f"sets_{at}", "0f90c0 c3", align=4)
    kernel.labels["em_setcc"] = start_va, STT_NOTYPE, 0
    kernel.text.function("salc", "9c 18c0 9d c3", align=4)
    kernel.text.function("behind_all", "c3")
    (one, two) = CodeMap.of(kernel.image()).arrays
    assert [one] == arrays
    assert (two.start_va, two.last_va) == (start_va, kernel.va("salc"))
    done = proven(kernel)
    assert done.va("salc") - done.va("em_setcc") == 24


def test_functions_that_references_name_may_change_their_distances() -> None:
    kernel = emulator()
    kernel.writable().put(*map(Word, NAMES))
    assert not CodeMap.of(kernel.image()).arrays


def test_fault_at_the_first_instruction_of_an_entry_is_not_a_reference() -> None:
    kernel = emulator(8, ("f6f1 c3", "66f7f1 c3", "f7f1 c3"))
    table = kernel.block("__ex_table", EX_TABLE_VA, RODATA)
    for name in NAMES:
        table.put(Distance(name), Distance("last"), "01000000")
    kernel.bounds("__start___ex_table", "__stop___ex_table", table)
    assert distances(proven(kernel)) == [0, 8, 16]


@pytest.mark.parametrize("name", ("one name", "odd distance"))
def test_functions_that_are_not_an_array_are_not_taken_for_one(name: str) -> None:
    kernel = emulator()
    if name == "one name":
        del kernel.labels["em_add"]
        kernel.labels["em_add"] = kernel.va("start_kernel"), STT_NOTYPE, 0
    else:
        va, kind, size = kernel.labels[NAMES[1]]
        kernel.labels[NAMES[1]] = va + 1, kind, size - 1
    assert not CodeMap.of(kernel.image()).arrays


@pytest.mark.parametrize("kind", (STT_NOTYPE, STT_FUNC))
def test_distances_that_changed_are_found_by_the_proof(
    kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = emulator(kind=kind)
    monkeypatch.setattr(code, "entry_arrays", lambda _image, _referred: [])
    done = kernel.rewrite()
    assert distances(done) != [0, 8, 16]
    verdict = check_static(kernel.image(), done.image)
    assert {finding.rule for finding in verdict.findings} == {COMPUTED_ENTRY}


def test_array_that_lost_its_alignment_is_found_by_the_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = emulator(8, in_front="40 c3")

    def unaligned(image: ElfImage, referred: np.ndarray) -> list[EntryArray]:
        return [EntryArray(a.start_va, a.last_va, 1) for a in entry_arrays(image, referred)]

    monkeypatch.setattr(code, "entry_arrays", unaligned)
    done = kernel.rewrite()
    assert distances(done) == [0, 8, 16]
    verdict = check_static(kernel.image(), done.image)
    assert {finding.rule for finding in verdict.findings} == {COMPUTED_ENTRY}
