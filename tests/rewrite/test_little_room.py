# SPDX-License-Identifier: MIT
"""Does a layout end, and end well, however little room there is between code that must not move?"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recover.stripped import ship
from tests.rewrite.smallkernel import Branch, Distance, SmallKernel
from tests.support.elfbuilder import RODATA
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.recover import recover
from vmipatch.rewrite import plan, rewrite
from vmipatch.rewrite.attach import runtime_len
from vmipatch.rewrite.trampoline import Trampoline, build
from vmipatch.scan.scan import scan
from vmipatch.verify.static import check_static

MOST_ROUNDS = 64
"""More than any layout of a few functions takes: each round leaves a site native or is the last."""
FILLER = b"\xcc"
INSTRUCTIONS = ("fa", "fb", "9c 58", "0f20c0", "89c8", "7400", "31c0", "0f30")
functions = st.lists(
    st.tuples(st.lists(st.sampled_from(INSTRUCTIONS), max_size=12), st.integers(0, 24)),
    min_size=1,
    max_size=8,
)


@cache
def needed_len() -> int:
    """Bytes that the runtime takes, which depend on no function."""
    return runtime_len(scan(SmallKernel().image()).code_map)


def crowded(
    found: list[tuple[list[str], int]], pinned: set[int], room_len: int, next_off: int
) -> SmallKernel:
    """Functions with filler after each, some of which stay; data follows after `next_off` bytes."""
    kernel = SmallKernel(room=False)
    kernel.text.function("start_kernel", *(Branch("e8", f"f{i}") for i in range(len(found))), "c3")
    for index, (code, filler_len) in enumerate(found):
        kernel.text.function(f"f{index}", *code, "c3", align=1)
        kernel.text.put(FILLER * filler_len)
    kernel.text.put(FILLER * room_len)
    # The room ends with the page, or where a section begins that need not be aligned.
    following = kernel.block(".after", kernel.text.end_va + next_off, RODATA, 1)
    following.put("00000000")
    kernel.writable().put("00000000", *(Distance(f"f{i}", relocated=False) for i in sorted(pinned)))
    return kernel


@settings(deadline=None, max_examples=40)
@given(
    functions,
    st.sets(st.integers(0, 7), max_size=4),
    st.integers(-0x40, 0x1C0),
    st.integers(1, 40),
)
def test_layout_with_little_room_ends_and_is_proven_or_refused(
    found: list[tuple[list[str], int]], pinned: set[int], spare_len: int, next_off: int
) -> None:
    room_len = needed_len() + spare_len
    kernel = crowded(found, {i for i in pinned if i < len(found)}, room_len, next_off)
    recovered = recover(*ship(kernel))
    rounds = 0

    def counted(*args: Any) -> list[Trampoline]:
        nonlocal rounds
        rounds += 1
        assert rounds < MOST_ROUNDS, "no progress"
        return build(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "build", counted)
        try:
            done = rewrite(recovered.kernel)
        except InputNotUnderstood as error:
            assert "too few for the runtime" in error.message
            return
    output = ElfImage.parse(done.data)
    verdict = check_static(recovered.image, output, recovered.fixed)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "ROUNDS", 0)
        assert len(rewrite(recovered.kernel).sites) <= len(done.sites)


@pytest.mark.parametrize("spare_len", [0x20, 0x40])
def test_room_for_trampolines_is_not_taken_from_more_sites_than_they_serve(spare_len: int) -> None:
    """Filler lacks for one of four sites of each function; its trampoline may take the others'."""
    functions_of_sites = [(["fa", "89c8", "89c8"] * 4, 15)] * 24
    kernel = crowded(functions_of_sites, set(), needed_len() + spare_len, 1)
    done = rewrite(recover(*ship(kernel)).kernel)
    # 15 bytes of filler are three sites' padding; a byte more for each of 24 functions is all.
    assert len(done.sites) > 3 * 24
    assert len(done.sites) == 4 * 24 or spare_len < 2 * 24
