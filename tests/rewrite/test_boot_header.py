# SPDX-License-Identifier: MIT
"""Is a rewritten multiboot kernel still one, and its header what it was?"""

from __future__ import annotations

from tests.image.test_multiboot import END, first, second
from tests.rewrite.smallkernel import SmallKernel
from vmipatch.image.elf import ElfImage
from vmipatch.image.multiboot import multiboot_headers
from vmipatch.verify.static import check_static


def with_header(header: bytes, jump: str) -> SmallKernel:
    """A kernel whose entry jumps over the header in its code; one site stands before both."""
    kernel = SmallKernel(room=False)
    kernel.text.function("entry", jump, "90 90 90 90", "90 90", header, "fa c3")
    kernel.text.function("start_kernel", "fa 9c 58 fb f4 c3")
    return kernel


def test_header_in_code_stays_as_it_is_and_is_found() -> None:
    for header, jump in ((first(3), "eb12"), (second(END), "eb1e")):
        kernel = with_header(header, jump)
        image, done = kernel.image(), kernel.rewrite()
        (before,), (after,) = multiboot_headers(image.data), multiboot_headers(done.done.data)
        assert (before.version, before.flags) == (after.version, after.flags)
        assert done.done.data[after.off :][: after.length] == header
        assert check_static(image, done.image, must_run=True).findings == ()


def test_header_that_changed_is_found_by_the_proof() -> None:
    kernel = with_header(first(3), "eb12")
    done = kernel.rewrite()
    (header,) = multiboot_headers(done.done.data)
    data = bytearray(done.done.data)
    data[header.off + 4] ^= 1
    data[header.off + 8] ^= 1
    changed = check_static(kernel.image(), ElfImage.parse(bytes(data), "changed"))
    assert not changed.holds
