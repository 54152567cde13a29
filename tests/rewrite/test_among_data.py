# SPDX-License-Identifier: MIT
"""What becomes of a section that is flagged as executable and holds data?

Linux 2.6.24 to 2.6.35 with ACPI has one: its source puts one function among initial data.
"""

from __future__ import annotations

import pytest

from tests.rewrite.smallkernel import INIT_DATA_VA, Branch, RewrittenSmall, SmallKernel, Word
from tests.verify.judged import judged
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.symbols import STT_FUNC, STT_NOTYPE, STT_OBJECT
from vmipatch.image.types import SectionFlag
from vmipatch.restore import restore
from vmipatch.scan.scan import scan
from vmipatch.verify.static import check_static
from vmipatch.verify.static.records import check_among_data

WAX = SectionFlag.ALLOC | SectionFlag.EXEC | SectionFlag.WRITE
HARMLESS = "31c0 c3"
NO_INSTRUCTIONS = "ffff 0f0b 9d fa ffff" * 4


def kernel(function: str, data: str = NO_INSTRUCTIONS) -> SmallKernel:
    """One function after an object and in front of a pointer; `f` calls it."""
    small = SmallKernel()
    small.text.function("f", "fa", Branch("e8", "among"), "fb c3")
    block = small.block(".init.data", INIT_DATA_VA, WAX)
    va = block.put(data)
    small.labels["object"] = (va, STT_OBJECT, len(bytes.fromhex(data)))
    va = block.put(function)
    small.labels["among"] = (va, STT_FUNC, len(bytes.fromhex(function)))
    small.labels["pointer"] = (block.put(Word("f")), STT_OBJECT, 4)
    return small


def test_data_stays_as_it_is_and_what_refers_to_it_follows() -> None:
    small = kernel(HARMLESS)
    image = small.image()
    assert ".init.data" not in {s.name for s in image.executable_sections}
    assert image.section_by_name[".init.data"].flags == WAX
    done: RewrittenSmall = small.rewrite()
    now = done.image.section_by_name[".init.data"]
    assert (now.flags, now.va) == (WAX, INIT_DATA_VA)
    assert done.image.read(small.va("object"), 32) == bytes.fromhex(NO_INSTRUCTIONS)
    assert done.word(small.va("pointer")) == done.va("f")
    displacement_va = done.va("f") + 6
    assert done.target(displacement_va) == small.va("among")
    assert check_static(image, done.image).holds
    assert restore(done.image).data == image.data


@pytest.mark.parametrize("code", ("fa c3", "9d c3", "31c0 0f22c0 c3"))
def test_function_among_data_with_a_site_is_refused(code: str) -> None:
    image = kernel(code).image()
    with pytest.raises(InputNotUnderstood, match="lies among data") as caught:
        scan(image)
    assert "among" in str(caught.value.place)


@pytest.mark.parametrize(("code", "found"), ((HARMLESS, []), ("90 9d c3", ["VP068"])))
def test_proof_looks_at_functions_among_data(code: str, found: list[str]) -> None:
    findings = judged(check_among_data, output=kernel(code).image())
    assert [f.rule.number for f in findings] == found


@pytest.mark.parametrize("kind", (STT_FUNC, STT_NOTYPE))
def test_code_that_is_writable_is_code(kind: int) -> None:
    """As of a kernel linked with everything in one segment, with functions or with labels only."""
    small = kernel("90" * 0x100 + "c3")
    va, _, size = small.labels["among"]
    small.labels["among"] = (va, kind, size if kind == STT_FUNC else 0)
    image = small.image()
    assert ".init.data" in {s.name for s in image.executable_sections}
    assert not list(image.functions_among_data())
