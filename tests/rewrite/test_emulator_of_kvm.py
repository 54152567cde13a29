# SPDX-License-Identifier: MIT
"""Do all entries of KVM's emulator keep their distances, wherever the linker puts its code?

Linux 4.17 to 6.1 enters the functions of arch/x86/kvm/emulate.c at `em_add + 8 * log2(size)`, and
those of setcc at `em_setcc + 4 * condition`; only the first of each family is named. The families
here are of its macros FASTOP1, FASTOP1SRC2, FASTOP2, FASTOP2W, FASTOP2CL, FASTOP2R and FOP_SETCC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from tests.rewrite.smallkernel import Branch, Part, RewrittenSmall, SmallKernel, Word
from vmipatch.image.symbols import STT_NOTYPE
from vmipatch.scan.code import CodeMap
from vmipatch.verify.static import check_static

Code = tuple[str, ...]
CONDITIONS = ("o", "no", "c", "nc", "z", "nz", "be", "nbe", "s", "ns", "p", "np", "l", "nl", "le",
              "nle")  # fmt: skip
PLAIN, THUNK = "ret", "jmp __x86_return_thunk"


@dataclass(frozen=True)
class Family:
    """Entries at equal distances."""

    name: str
    entries: Mapping[str, Code]
    """Name and code of each; nothing for a slot that holds a return alone."""
    stride: int = 8


def _sizes(name: str, byte: str, word: str, long: str) -> Family:
    entries = {f"{name}b": (byte,), f"{name}w": (word,), f"{name}l": (long,)}
    return Family(f"em_{name}", entries)


FAMILIES = (
    _sizes("add", "00d0", "6601d0", "01d0"),
    _sizes("adc", "10d0", "6611d0", "11d0"),
    _sizes("xor", "30d0", "6631d0", "31d0"),
    _sizes("not", "f6d0", "66f7d0", "f7d0"),
    _sizes("inc", "fec0", "6640", "40"),
    _sizes("mul_ex", "f6e1", "66f7e1", "f7e1"),
    _sizes("shl", "d2e0", "66d3e0", "d3e0"),
    _sizes("cmp_r", "38c2", "6639c2", "39c2"),
    Family("em_bt", {"em_bt_none": (), "btw": ("660fa3d0",), "btl": ("0fa3d0",)}),
    Family("em_bsf", {"em_bsf_none": (), "bsfw": ("660fbcc2",), "bsfl": ("0fbcc2",)}),
    Family(
        "em_setcc",
        {f"set{name}": (f"0f9{number:x}c0",) for number, name in enumerate(CONDITIONS)},
        stride=4,
    ),
)
NAMES = [name for family in FAMILIES for name in (family.name, *family.entries)]
AROUND = ("fa 0f20d8 fb c3", "9c 58 fa 0f22d8 c3", "fa fb 0f20d0 c3", "0f23c0 9c 59 fb c3")
"""Functions of other files, which grow by odd numbers of bytes."""


def emulate_o(kernel: SmallKernel, end: str) -> None:
    """The code of emulate.o, whose functions return by `end`."""
    returns: tuple[Part, ...] = ("c3",)
    text = kernel.text
    is_wide = end == THUNK
    if is_wide:
        returns = (Branch("e9", "__x86_return_thunk"),)
    text.function("emulates", "fa fb", "40" * 20, "c3")
    for family in FAMILIES:
        stride = max(family.stride, 16) if is_wide else family.stride
        text.align(stride)
        kernel.labels[family.name] = text.end_va, STT_NOTYPE, 0
        for name, code in family.entries.items():
            text.function(name, *code, *returns, align=stride)
    text.function("emulates_more", "fb", "c3")


def kernel(place: str, end: str = PLAIN) -> SmallKernel:
    """A kernel that links emulate.o first, in the middle or last."""
    small = SmallKernel()
    text = small.text
    calls: list[Part] = []
    for family in FAMILIES:
        calls += ["b8", Word(family.name), "ffd0"]
    text.function("start_kernel", "fa", *calls, "fb c3")
    text.function("__x86_return_thunk", "c3 cc", align=32)
    at = ("first", "middle", "last").index(place) * len(AROUND) // 2
    for number, code in enumerate(AROUND):
        if number == at:
            emulate_o(small, end)
        text.function(f"other_{number}", "40" * (20 + 16 * number), code)
    if at == len(AROUND):
        emulate_o(small, end)
    text.function("end_of_all", "c3")
    return small


def distances(va_of: dict[str, int]) -> dict[str, int]:
    """How far each entry is from the name of its family."""
    return {
        f"{family.name} {name}": va_of[name] - va_of[family.name]
        for family in FAMILIES
        for name in family.entries
    }


def before(small: SmallKernel) -> dict[str, int]:
    """Those of the original."""
    return distances({name: small.va(name) for name in NAMES})


def after(done: RewrittenSmall) -> dict[str, int]:
    """Those of the output."""
    return distances({name: done.va(name) for name in NAMES})


@pytest.mark.parametrize("end", (PLAIN, THUNK))
@pytest.mark.parametrize("place", ("first", "middle", "last"))
def test_entries_keep_their_distances_wherever_they_are_linked(place: str, end: str) -> None:
    small = kernel(place, end)
    done = small.rewrite()
    assert len(before(small)) == 46
    assert after(done) == before(small)
    verdict = check_static(small.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    assert verdict.counts["records"] > 10


@pytest.mark.parametrize("place", ("first", "middle", "last"))
def test_entries_that_moved_apart_are_found(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = kernel(place)
    monkeypatch.setattr(CodeMap, "arrays", [])
    done = small.rewrite()
    assert after(done) != before(small)
    found = {rule.number for rule in check_static(small.image(), done.image).totals}
    assert found == {"VP025"}
