# SPDX-License-Identifier: MIT
"""Is an annotation record the 16 bytes that the interface describes?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmipatch.errors import ExitCode, MalformedTable
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import (
    NATIVE_VA_OFF,
    NEAR_CALL,
    NEAR_CALL_LEN,
    RECORD_LEN,
    TRANSLATION_VA_OFF,
    AnnotationRecord,
    pack_records,
    unpack_records,
)

CLI = AnnotationRecord(VmiCall.DISABLE_INTERRUPTS, 0xC1234567, 0xC89ABCDE, 5, 6, 4, 0xFF)

octets = st.integers(0, 255)
words = st.integers(0, 0xFFFFFFFF)
records = st.builds(
    AnnotationRecord,
    st.sampled_from(VmiCall),
    words,
    words,
    octets,
    octets,
    st.integers(-128, 127),
    octets,
)


def test_fields_are_where_the_interface_puts_them() -> None:
    assert CLI.pack() == bytes.fromhex("1e000000 674523c1 debc9ac8 05 06 04 ff")
    assert CLI.pack()[NATIVE_VA_OFF:][:4] == (0xC1234567).to_bytes(4, "little")
    assert CLI.pack()[TRANSLATION_VA_OFF:][:4] == (0xC89ABCDE).to_bytes(4, "little")


@given(st.lists(records, max_size=8))
def test_what_was_packed_is_read_again(group: list[AnnotationRecord]) -> None:
    data = pack_records(group)
    assert len(data) == RECORD_LEN * len(group)
    assert list(unpack_records(data)) == group


@pytest.mark.parametrize("length", [1, 15, 17, 31])
def test_broken_size_is_refused(length: int) -> None:
    with pytest.raises(MalformedTable, match="broken size") as caught:
        list(unpack_records(bytes(length)))
    assert caught.value.exit_code is ExitCode.INPUT


def test_unknown_call_is_refused_with_its_record() -> None:
    stranger = (1000).to_bytes(4, "little") + CLI.pack()[4:]
    with pytest.raises(MalformedTable, match="record 1 names call 1000"):
        list(unpack_records(CLI.pack() + stranger))


def test_unaimed_translation_is_one_near_call() -> None:
    assert bytes.fromhex("e800000000") == NEAR_CALL
    assert len(NEAR_CALL) == NEAR_CALL_LEN
