# SPDX-License-Identifier: MIT
"""Are lengths that the rewriter chooses refused where they are not what the original asks for?

Each output is written by the rewriter with one decision changed, so that all else of it follows:
labels, words, manifest, build-id and the note for restore.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.rewrite.smallkernel import Branch, SmallKernel, Word
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import attach, layout, placement
from vmipatch.rewrite.layout import Change, FillerRun
from vmipatch.rewrite.placement import PAGE
from vmipatch.rewrite.reach import Reach, _near
from vmipatch.rewrite.rewrite import rewrite
from vmipatch.runtime import Runtime, RuntimeFacts, build_runtime
from vmipatch.verify.static import check_static, lengths
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.spare import KEPT_FREE

Items = Sequence[Change | FillerRun]
LOOKS_AROUND = "e800000000 5b 81eb05000000 7402 31c0 8d8310000000 c3"
"""call 1f; 1: pop ebx; sub ebx, 5; jz over a xor; lea eax, [ebx + 16]."""


def kernel(*, room: bool = True) -> SmallKernel:
    """A kernel with a routine that is copied, and one like it that is not."""
    small = SmallKernel(room=room)
    small.text.function("start_kernel", Branch("e8", "f"), "fa c3")
    small.text.function("f", "fa 0f20d8 fb 9c 58 c3")
    small.text.function("relocate_kernel", LOOKS_AROUND)
    small.text.function("other", "7402 31c0 c3")
    small.text.function("last", "c3")
    small.rodata().put(Word("f"))
    small.writable().put(b"data")
    return small


def broken(small: SmallKernel) -> set[str]:
    """The rules that `small` breaks when it is rewritten now."""
    image = small.image()
    output = ElfImage.parse(rewrite(image).data, "output")
    digest = image.file_sha256
    verdict = check_static(image, output, original_sha256=digest, must_run=True)
    return {rule.number for rule in verdict.totals}


def widening(small: SmallKernel, name: str) -> Callable[[Reach], list[Change]]:
    """`Reach.to_widen`, which also widens every short branch of the function `name`."""
    real = Reach.to_widen
    start_va, _, size = small.labels[name]

    def to_widen(self: Reach) -> list[Change]:
        found = real(self)
        for _, stream in self.code_map:
            for index in stream.branches[stream.branch_widths == 1].tolist():
                if start_va <= int(stream.starts[index]) < start_va + size:
                    found.append(_near(stream, index))
        return [change for change in found if change.va not in self.widened]

    return to_widen


@pytest.mark.parametrize(("name", "found"), (("relocate_kernel", {"VP086"}), ("other", set())))
def test_near_branch_in_what_is_copied_is_found(
    name: str, found: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere it does what the short one did (Intel SDM volume 2, Jcc)."""
    small = kernel()
    assert broken(small) == set()
    monkeypatch.setattr(Reach, "to_widen", widening(small, name))
    assert broken(small) == found


def growing(small: SmallKernel, before: str, by: int) -> Callable[[Items, int], list[Change]]:
    """`layout.fit`, which lets the filler before a function grow `by` bytes more."""
    end_va = small.va(before)

    def fit(items: Items, max_drift: int) -> list[Change]:
        found = {change.va: change for change in layout.fit(items, max_drift - by)}
        for item in items:
            if isinstance(item, FillerRun) and item.va + item.old_len == end_va:
                new_len = found[item.va].new_len if item.va in found else item.old_len
                found[item.va] = Change(item.va, item.old_len, new_len + by)
        return [change for _, change in sorted(found.items())]

    return fit


@pytest.mark.parametrize(("before", "by"), (("other", 0x40), ("last", 0x1000)))
def test_filler_that_nothing_asks_for_is_found(
    before: str, by: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = kernel(room=False)
    assert broken(small) == set()
    monkeypatch.setattr(placement, "fit", growing(small, before, by))
    assert broken(small) == {"VP003"}


def test_filler_of_a_copied_routine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label in it makes filler at its end one that could give way."""
    small = kernel(room=False)
    start_va, kind, _ = small.labels["relocate_kernel"]
    small.labels["relocate_kernel"] = start_va, kind, small.va("last") - start_va
    assert broken(small) == set()
    monkeypatch.setattr("vmipatch.rewrite.region.Zones.over", lambda *_: None)
    assert "VP086" in broken(small)


def shifting(by: int) -> Callable[..., None]:
    """The constructor of the planner, which begins with a shift of `by` bytes."""
    real = placement._Planner.__init__

    def begin(self: Any, *given: Any, **named: Any) -> None:
        real(self, *given, **named)
        self._shift = by

    return begin


@pytest.mark.parametrize("by", (KEPT_FREE + PAGE, 0x100000))
def test_shift_that_nothing_asks_for_is_found(by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small = kernel()
    monkeypatch.setattr(placement._Planner, "__init__", shifting(by))
    assert broken(small) == {"VP052"}


@pytest.mark.parametrize("how", ("added code", "code of the original"))
def test_code_that_no_original_asks_for_is_not_even_decoded(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time and memory of the proof follow from the original; 256 MiB took minutes."""
    small = kernel(room=False)
    assert broken(small) == set()
    if how == "added code":
        monkeypatch.setattr(placement._Planner, "__init__", shifting(2 * lengths.ANY_SITES))
    else:
        monkeypatch.setattr(lengths, "ANY_SITES", PAGE)
        monkeypatch.setattr(placement, "fit", growing(small, "last", 4 * PAGE))
    monkeypatch.setattr(Comparison, "of", lambda _: pytest.fail("it was decoded"))
    assert "VP052" in broken(small)


def test_kernel_of_nothing_but_sites_stays_within_the_bound() -> None:
    small = SmallKernel(room=False)
    small.text.function("start_kernel", Branch("e8", "f"), "c3")
    small.text.function("f", "fa 0f20d8 0f30 fb" * 250, "c3")
    small.rodata().put(Word("f"))
    assert broken(small) == set()


def test_shift_that_spoils_an_alignment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    small = kernel(room=False)
    next(block for block in small.blocks if block.name == ".data").alignment = 2 * PAGE
    assert broken(small) == set()
    monkeypatch.setattr(placement._Planner, "_shift_unit", lambda *_: PAGE)
    monkeypatch.setattr(placement._Planner, "__init__", shifting(PAGE))
    assert "VP052" in broken(small)


def with_modules() -> SmallKernel:
    """A kernel whose module loader calls module_finalize."""
    small = SmallKernel()
    small.text.function("start_kernel", Branch("e8", "load_module"), "fa c3")
    small.text.function("module_finalize", "31c0 fa c3")
    small.text.function("load_module", Branch("e8", "module_finalize"), "c3")
    small.rodata().put(Word("load_module"))
    return small


def test_module_loader_that_is_not_redirected_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules would run with instructions that are silently wrong at CPL 1."""
    small = with_modules()
    assert broken(small) == set()
    monkeypatch.setattr(attach, "LOADER", "no function")
    assert {"VP007", "VP071"} <= broken(small)


@pytest.mark.parametrize("label", ("entry", "module_entry"))
@pytest.mark.parametrize("by", (-5, 1, 16))
def test_callers_that_are_led_beside_a_label_are_found(
    label: str, by: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = with_modules()

    def beside(facts: RuntimeFacts, va: int) -> Runtime:
        found = build_runtime(facts, va)
        changed: dict[str, Any] = {label: getattr(found, label) + by}
        return replace(found, **changed)

    monkeypatch.setattr(attach, "build_runtime", beside)
    assert "VP007" in broken(small) or "VP071" in broken(small)
