# SPDX-License-Identifier: MIT
"""Does code that reads its own address find what it looked for, at a folded distance?"""

from __future__ import annotations

import struct

import pytest

from tests.rewrite.smallkernel import Branch, RewrittenSmall, SmallKernel, Word
from vmipatch.scan import zones
from vmipatch.scan.scan import scan
from vmipatch.scan.site import Disposition, Reason
from vmipatch.verify.static import check_static

SITES = "fa 0f20d8 fb 0f22d8"
"""They grow: what is on both sides of them moves apart."""
READER = "8b1c24 c3"
"""mov ebx, [esp]; ret: __x86.get_pc_thunk.bx."""


def kernel(
    *, use: str, by_thunk: bool = False, width: str = "i", back: bool = False
) -> SmallKernel:
    """`f` reads its own address and names `table`, with sites in between; {} is the distance."""
    result = SmallKernel()
    text = result.text
    text.function("start_kernel", Branch("e8", "f"), SITES, "c3")
    if by_thunk:
        text.function("thunk", READER)
    if back:
        text.function("table", "40404040 c3")
    text.align(16)
    start_va = text.end_va
    call = [Branch("e8", "thunk")] if by_thunk else ["e8 00000000 5b"]
    text.put(*call)
    label_va = start_va + 5
    use_at = text.end_va
    length = len(bytes.fromhex(use.replace("{}", "00" * struct.calcsize(width))))
    rest = bytes.fromhex(SITES) + b"\xc3"
    table_va = result.va("table") if back else use_at + length + len(rest)
    distance = table_va - label_va
    distance = -distance if use.startswith("81eb") else distance
    text.put(bytes.fromhex(use.replace("{}", struct.pack(f"<{width}", distance).hex())), rest)
    result.labels["f"] = (start_va, 2, text.end_va - start_va)
    result.labels["label"] = (label_va, 0, 0)
    if not back:
        text.function("table", "40404040 c3", align=1)
    text.function("after", SITES, "c3")
    return result


USES = {
    "lea": ("8d83 {}", "i"),
    "load": ("8b83 {}", "i"),
    "store": ("8983 {}", "i"),
    "compare": ("80bb {} 00", "i"),
    "add": ("81c3 {}", "i"),
    "sub": ("81eb {}", "i"),
    "short": ("8b43 {}", "b"),
    "indirect": ("ffa3 {}", "i"),
    "gdt": ("0f0193 {}", "i"),
}


def distance(done: RewrittenSmall) -> int:
    """How far the table is from the label."""
    return done.va("table") - done.va("label")


@pytest.mark.parametrize("by_thunk", (False, True))
@pytest.mark.parametrize("use", USES)
def test_folded_distance_is_kept(use: str, by_thunk: bool) -> None:
    code, width = USES[use]
    small = kernel(use=code, width=width, by_thunk=by_thunk)
    done = small.rewrite()
    verdict = check_static(small.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    assert verdict.counts["folded distances"] >= 1
    assert distance(done) == small.va("table") - small.va("label")


@pytest.mark.parametrize("use", ("lea", "sub"))
def test_distance_backwards_to_another_function_is_kept(use: str) -> None:
    small = kernel(use=USES[use][0], back=True)
    done = small.rewrite()
    assert check_static(small.image(), done.image).holds
    assert distance(done) == small.va("table") - small.va("label") < 0


@pytest.mark.parametrize("use", USES)
def test_distance_that_changed_is_found(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "folded_ranges", lambda code_map: [])
    code, width = USES[use]
    small = kernel(use=code, width=width)
    done = small.rewrite()
    assert distance(done) != small.va("table") - small.va("label")
    found = {rule.number for rule in check_static(small.image(), done.image).totals}
    assert {"VP086", "VP090"} <= found


def test_sites_in_between_stay_for_that_reason() -> None:
    small = kernel(use=USES["lea"][0])
    start_va, size = small.labels["f"][0], small.labels["f"][2]
    inside = [s for s in scan(small.image()).sites if start_va <= s.va < start_va + size]
    assert len(inside) == 4
    assert {site.reason for site in inside} == {Reason.OWN_ADDRESS}
    assert Disposition.REWRITTEN not in {site.disposition for site in inside}


def test_copied_routine_is_kept_whole_and_names_nothing_outside() -> None:
    """As relocate_kernel: it subtracts its own distance, and addresses data after itself."""
    small = SmallKernel()
    small.text.function("start_kernel", SITES, Branch("e8", "relocate_kernel"), "c3")
    small.text.function("relocate_kernel", "fa e8 00000000 5b 83eb 06 8b83 00010000 c3")
    small.text.function("after", SITES, "90" * 0x200, SITES, "c3")
    done = small.rewrite()
    verdict = check_static(small.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    after = [s for s in scan(small.image()).sites if s.va >= small.va("after")]
    assert {site.disposition for site in after} == {Disposition.REWRITTEN}


def test_call_whose_constants_have_relocations_is_like_any_other() -> None:
    """sub ebp, 1b and then sym(%ebp): what the linker filled in is led along."""
    small = SmallKernel()
    small.text.function("start_kernel", SITES, Branch("e8", "f"), "c3")
    small.text.function("f", "e8 00000000")
    small.text.label("label")
    small.text.put("5d 81ed", Word("label"), "8b85", Word("table"), SITES, "c3")
    small.text.function("table", "40404040 c3")
    done = small.rewrite()
    verdict = check_static(small.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    assert "folded distances" not in verdict.counts or not verdict.counts["folded distances"]
    later = [s for s in scan(small.image()).sites if s.va >= small.va("start_kernel")]
    assert {site.disposition for site in later} == {Disposition.REWRITTEN}
