# SPDX-License-Identifier: MIT
"""Is where a kernel goes on found from its instructions, and an unknown start refused?"""

from __future__ import annotations

import pytest

from tests.conftest import missing
from tests.support import kernels
from tests.xen.heads import (
    DIRECTORY,
    LINE,
    LINE_WORDS,
    MIDDLE,
    PAGE_OFFSET,
    PARAMS,
    STACK,
    TEXT_VA,
    TOP,
    builder,
)
from vmipatch.errors import NotSupported
from vmipatch.image.elf import ElfImage
from vmipatch.limits import Limit
from vmipatch.xen.kernel import find_places


@pytest.mark.parametrize("lss", [False, True], ids=["adds", "lss"])
@pytest.mark.parametrize("pvh", [False, True], ids=["alone", "pvh too"])
def test_places_are_those_of_the_instructions(lss: bool, pvh: bool) -> None:
    image = builder(lss=lss, pvh=pvh).image()
    places = find_places(image)
    turn = image.read(places.entry - (7 if lss else 6), 3)
    assert turn.startswith(b"\x0f\xb2\x25" if lss else b"\x81\xc4")
    assert places.page_offset == PAGE_OFFSET
    assert (places.page_directory, places.page_middle) == (DIRECTORY, MIDDLE)
    assert (places.boot_params, places.command_line) == (PARAMS, LINE)
    assert places.command_line_len == 4 * LINE_WORDS
    assert (places.stack, places.fixaddr_top) == (STACK, TOP)


def test_fixed_mappings_are_found_by_what_is_exported() -> None:
    image = builder(symbols=False, exported=True).image()
    assert find_places(image).fixaddr_top == TOP


@pytest.mark.parametrize(
    ("image", "limit"),
    [
        (builder(pae=False).image(), Limit.XEN_PAE),
        (builder(copies=1).image(), Limit.XEN_START),
        (builder(symbols=False).image(), Limit.XEN_START),
    ],
    ids=["no PAE", "no command line", "no __FIXADDR_TOP"],
)
def test_start_that_is_not_understood_is_refused(image: ElfImage, limit: Limit) -> None:
    with pytest.raises(NotSupported) as caught:
        find_places(image)
    assert caught.value.limit is limit


@pytest.mark.kernels
@pytest.mark.parametrize(("name", "pae"), [("smp-pae", True), ("tiny", False)])
def test_places_of_a_kernel_are_what_its_symbols_say(name: str, pae: bool) -> None:
    built = kernels.find(name)
    if built is None:
        missing(f"the test kernel {name}")
    image = ElfImage.parse(built.vmlinux.read_bytes(), name)
    if not pae:
        with pytest.raises(NotSupported) as caught:
            find_places(image)
        assert caught.value.limit is Limit.XEN_PAE
        return
    places, address = find_places(image), image.symbols.address
    assert TEXT_VA < places.entry < TEXT_VA + 0x1000
    assert places.stack == address("initial_stack")
    assert places.page_directory == address("initial_page_table")
    assert places.page_middle == address("initial_pg_pmd")
    assert places.boot_params == address("boot_params")
    assert places.command_line == address("boot_command_line")
    assert places.fixaddr_top == address("__FIXADDR_TOP")
