# SPDX-License-Identifier: MIT
"""Does the runtime mark the level of its lines as the kernel that it stands in does?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rewrite.smallkernel import Branch, SmallKernel, Word
from vmipatch.image.elf import ElfImage
from vmipatch.tables.log_levels import LOGGERS, has_old_levels, logger_of
from vmipatch.verify.static import check_static

MESSAGES = Path(__file__).parents[2] / "vmipatch" / "runtime" / "messages.S"
OLD, NEW, NONE = "3c363e6f6c6400", "01366e657700", "706c61696e00"
"""<6>old, 1 6 new, plain"""
PUSH, STORE, LOAD = "68", "c70424", "b8"


def kernel(*formats: str, logger: str = "printk", putting: str = PUSH) -> SmallKernel:
    """A kernel with a `start_kernel` that logs each of `formats` (hexadecimal)."""
    small = SmallKernel()
    small.text.function("start_kernel", "90 c3")
    small.text.function(logger, "c3")
    data = small.rodata()
    data.label("unlogged")
    data.put(OLD)
    data.align(4, b"\0")
    for number, text in enumerate(formats):
        data.label(f"format_{number}")
        data.put(text)
        data.align(4, b"\0")
        code = (putting, Word(f"format_{number}"), Branch("e8", logger), "c3")
        small.text.function(f"logs_{number}", *code)
    return small


@pytest.mark.parametrize("logger", LOGGERS)
@pytest.mark.parametrize("putting", [PUSH, STORE])
@pytest.mark.parametrize(
    ("formats", "is_old"),
    [
        ((OLD,), True),
        ((NEW,), False),
        ((NONE, NONE, OLD), True),
        ((OLD, NEW, NEW), False),
        ((OLD, NEW, OLD), True),
        ((NONE,), False),
        ((), False),
    ],
)
def test_most_formats_of_the_kernel_decide(
    formats: tuple[str, ...], is_old: bool, putting: str, logger: str
) -> None:
    assert has_old_levels(kernel(*formats, logger=logger, putting=putting).image()) is is_old


def test_strings_that_are_not_logged_decide_nothing() -> None:
    small = kernel(NEW)
    for number in range(3):
        load = (LOAD, Word("unlogged"), Branch("e8", "printk"), "c3")
        small.text.function(f"loads_{number}", *load)
        push = (PUSH, Word("unlogged"), Branch("e8", "logs_0"), "c3")
        small.text.function(f"pushes_{number}", *push)
    assert not has_old_levels(small.image())


def test_words_that_are_no_addresses_of_strings_decide_nothing() -> None:
    small = kernel(OLD)
    small.text.function("odd", PUSH, "ffffffff", Branch("e8", "printk"), "c3")
    assert has_old_levels(small.image())


def test_a_kernel_without_log_has_no_levels() -> None:
    small = SmallKernel()
    small.text.function("f", "c3")
    assert logger_of(small.image()) is None
    assert not has_old_levels(small.image())


@pytest.mark.parametrize(("text", "mark"), [(OLD, b"<%d>"), (NEW, b"\x01%d")])
def test_runtime_speaks_as_its_kernel_does(text: str, mark: bytes) -> None:
    small = kernel(text)
    output = ElfImage.parse(small.rewrite().done.data, "output")
    said = output.section_bytes(output.section_by_name[".vmi.text"])
    sources = MESSAGES.read_text("utf-8")
    for level in (4, 6):
        written = sources.count(f'"\\001{level}vmi: ')
        assert written and said.count(mark % level + b"vmi: ") == written
    assert said.count(b"vmi: ") == sources.count('"\\001')
    assert check_static(small.image(), output).holds
