# SPDX-License-Identifier: MIT
"""Does it show where a reader of ELF headers is wrong?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import pytest

from tests.verify.judged import judged
from tests.verify.pair import small_pair
from vmipatch.image.elf import ElfImage
from vmipatch.image.second_reader import SECTION_FIELDS, SEGMENT_FIELDS, header_differences
from vmipatch.image.types import Section, Segment
from vmipatch.verify.static.second_reader import check_readers

ORIGINAL, OUTPUT = small_pair()
T = TypeVar("T", Section, Segment)


def _misread(header: T, field: str) -> T:
    value = getattr(header, field)
    changed: dict[str, Any] = {field: ".other" if field == "name" else value + 1}
    return replace(header, **changed)


def test_readers_agree_about_honest_files() -> None:
    assert list(header_differences(ORIGINAL)) == []
    assert list(header_differences(OUTPUT)) == []


@pytest.mark.parametrize("field", SECTION_FIELDS)
def test_section_that_our_reader_misread_is_named(field: str) -> None:
    *before, last = OUTPUT.sections
    misread = replace(OUTPUT, sections=(*before, _misread(last, field)))
    (difference,) = header_differences(misread)
    assert f" {field} of section {last.index} " in difference


@pytest.mark.parametrize("field", SEGMENT_FIELDS)
def test_segment_that_our_reader_misread_is_named(field: str) -> None:
    *before, last = OUTPUT.segments
    misread = replace(OUTPUT, segments=(*before, _misread(last, field)))
    (difference,) = header_differences(misread)
    assert f" {field} of segment {len(before)} " in difference


@pytest.mark.parametrize(
    "misread",
    [
        replace(OUTPUT, sections=OUTPUT.sections[:-1]),
        replace(OUTPUT, segments=OUTPUT.segments[:-1]),
        replace(OUTPUT, entry=OUTPUT.entry + 1),
    ],
)
def test_difference_is_a_finding_of_the_proof(misread: ElfImage) -> None:
    for original, output in ((OUTPUT, misread), (misread, OUTPUT)):
        (finding,) = judged(check_readers, original=original, output=output)
        assert finding.rule.number == "VP098"
