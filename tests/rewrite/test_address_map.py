# SPDX-License-Identifier: MIT
"""Does the address map keep the order of code, and does its inverse lead back?"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.rewrite.test_layout import START_VA, Items, fitting, limits, regions
from vmipatch.rewrite.address_map import AddressMap
from vmipatch.rewrite.layout import Change


def map_of(items: Items, limit: int) -> tuple[AddressMap, np.ndarray]:
    """The map of a layout, and addresses at which instructions begin in it (ascending)."""
    drift = 0
    pieces = []
    gone = set()
    for change in fitting(items, limit):
        drift += change.new_len - change.old_len
        pieces.append((change.va + change.old_len, drift))
        if change.new_len < change.old_len:
            gone |= {*range(change.va, change.va + change.old_len)}
    end_va = items[-1].va + items[-1].old_len + 40
    inside = {
        va
        for item in items
        if isinstance(item, Change)
        for va in range(item.va + 1, item.va + item.old_len)
    }
    starts = [va for va in range(START_VA, end_va) if va not in gone | inside]
    return AddressMap.of(pieces), np.array(starts, dtype=np.int64)


@given(regions(), limits)
def test_order_of_instructions_is_kept(items: Items, limit: int) -> None:
    new, starts = map_of(items, limit)
    assert (np.diff(new(starts)) > 0).all()


@given(regions(), limits)
def test_inverse_leads_back(items: Items, limit: int) -> None:
    new, starts = map_of(items, limit)
    assert np.array_equal(new.inverse()(new(starts)), starts)


@given(regions(), limits)
def test_inverse_of_the_inverse_is_the_map(items: Items, limit: int) -> None:
    new, starts = map_of(items, limit)
    assert np.array_equal(new.inverse().inverse()(starts), new(starts))


@given(regions(), limits)
def test_one_address_moves_as_an_array_of_them_does(items: Items, limit: int) -> None:
    new, starts = map_of(items, limit)
    assert [new.one(int(va)) for va in starts] == new(starts).tolist()
    assert np.array_equal(new.delta(starts), new(starts) - starts)


@given(st.integers(0, 0xFFFFFFFF))
def test_empty_map_moves_nothing(va: int) -> None:
    assert AddressMap.of([]).one(va) == va


def test_address_between_two_instructions_belongs_to_the_later_one() -> None:
    """The end of a function maps to where its successor begins."""
    new = AddressMap.of([(0x101, 4), (0x200, 0)])
    assert [new.one(va) for va in (0x100, 0x101, 0x1FF, 0x200)] == [0x100, 0x105, 0x203, 0x200]


def test_of_pieces_with_one_start_the_last_rules() -> None:
    """Code that grew up to the end of its section does not drag the next section along."""
    assert AddressMap.of([(0x101, 4), (0x101, 0)]).one(0x1000) == 0x1000
    assert AddressMap.of([(0x101, 0), (0x101, 4)]).one(0x1000) == 0x1004
