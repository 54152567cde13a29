# SPDX-License-Identifier: MIT
"""Would `python -m tests.verify.ledger_bytes` notice a change that the proof accepts?"""

from __future__ import annotations

import random
from functools import cache

import pytest

from tests.verify import ledger_bytes
from tests.verify.ledger_bytes import ADDED, CODE, ENTRIES, HEADERS, LedgerPair
from tests.verify.ledger_together import ByteChange, unnamed
from tests.verify.pair import small_pair
from vmipatch.verify.static.reproduce.rows import Row

JUDGED_TOGETHER = (*CODE, *ENTRIES, *ADDED, Row.RECORDS)


@cache
def pair() -> LedgerPair:
    return LedgerPair(*small_pair())


def some(row: Row, count: int = 3) -> list[ByteChange]:
    return list(pair().changes(row, count, random.Random(1)))


@pytest.mark.parametrize("row", Row)
def test_byte_that_is_no_other_is_accepted(row: Row) -> None:
    """The honest file, called changed, goes the same way as a change of the row."""
    for change in some(row, 1):
        same = ByteChange(row, change.off, pair().output.data[change.off])
        assert pair().accepted([same]) == [same]


@pytest.mark.parametrize("row", JUDGED_TOGETHER)
def test_change_that_no_finding_names_is_left(row: Row) -> None:
    changes = some(row)
    assert unnamed(pair().output.data, changes, pair().parts, lambda _: ()) == changes


def test_change_is_not_named_by_findings_elsewhere() -> None:
    """All that the proof says of one function says nothing about another."""
    first, *others = some(Row.CODE, 20)
    findings = pair()._all_findings(pair().data_with(first))
    assert findings
    left = unnamed(pair().output.data, [first, *others], pair().parts, lambda _: findings)
    assert first not in left
    own = pair().parts.of(first.off)
    assert own is not None
    far = [c for c in others if (p := pair().parts.of(c.off)) is None or p.unit != own.unit]
    assert far
    assert set(far) <= set(left)


def test_accepted_change_of_a_header_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_bytes, "refusal", lambda *_: None)
    changes = some(HEADERS[0])
    assert pair().accepted(changes) == changes
