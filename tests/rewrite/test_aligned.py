# SPDX-License-Identifier: MIT
"""Does code that was aligned on purpose stay so, whatever stands in front of it?"""

from __future__ import annotations

import pytest

from tests.rewrite.smallkernel import Branch, SmallKernel
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_FUNC, STT_NOTYPE
from vmipatch.rewrite import region
from vmipatch.verify.static import check_static

ODD_GROWTH = "fa fb fa 0f20d8 0f22d8"
PAGE = 0x1000


def kernel(unit: int, filler: int, kind: int = STT_FUNC, first: str = "90") -> SmallKernel:
    """`aligned` is a multiple of `unit`, with `filler` bytes of filler in front of it."""
    result = SmallKernel()
    text = result.text
    text.function("start_kernel", ODD_GROWTH, Branch("e8", "aligned"), "c3")
    text.put(b"\x40" * (-(text.end_va + 1 + filler) % unit), "c3")
    text.put(bytes.fromhex(first) * filler)
    text.label("aligned", kind)
    assert result.va("aligned") % unit == 0
    text.put("31c0 c3")
    text.function("last", "fa c3")
    return result


@pytest.mark.parametrize("first", ("90", "cc"))
@pytest.mark.parametrize("kind", (STT_FUNC, STT_NOTYPE))
@pytest.mark.parametrize(("unit", "filler"), ((32, 16), (64, 40), (256, 16), (PAGE, 33)))
def test_alignment_that_filler_shows_is_kept(unit: int, filler: int, kind: int, first: str) -> None:
    small = kernel(unit, filler, kind, first)
    done = small.rewrite()
    verdict = check_static(small.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    shown = 1 << filler.bit_length()
    assert done.va("aligned") % min(shown, unit) == 0


@pytest.mark.parametrize("filler", (0, 1, 7, 15, 16))
def test_label_that_begins_a_page_keeps_beginning_one(filler: int) -> None:
    small = kernel(PAGE, filler, STT_NOTYPE)
    done = small.rewrite()
    assert check_static(small.image(), done.image).holds
    assert done.va("aligned") % PAGE == 0


@pytest.mark.parametrize(("unit", "filler", "kind"), ((PAGE, 7, STT_NOTYPE), (PAGE, 0, STT_NOTYPE)))
def test_alignment_that_got_lost_is_found(
    unit: int, filler: int, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region, "_before_aligned", lambda *given: given[-1])
    small = kernel(unit, filler, kind)
    done = small.rewrite()
    assert done.va("aligned") % unit
    assert {rule.number for rule in check_static(small.image(), done.image).totals} == {"VP089"}


def test_what_is_aligned_by_accident_need_not_be() -> None:
    """The proof asks nothing of a function that less than 16 bytes of filler brought to 64."""
    small = kernel(64, 5)
    done = small.rewrite()
    verdict = check_static(small.image(), ElfImage.parse(done.done.data, "output"))
    assert verdict.holds
    assert (
        verdict.counts["aligned addresses"]
        == check_static(kernel(64, 15).image(), kernel(64, 15).rewrite().image).counts[
            "aligned addresses"
        ]
    )
