# SPDX-License-Identifier: MIT
"""Do pages of code that are copied or written as a whole stay whole, and without sites?"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.recover.stripped import ship
from tests.rewrite.smallkernel import PAGE, RewrittenSmall, SmallKernel, Word
from vmipatch.image.code_pages import code_pages
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import STT_FUNC, STT_NOTYPE
from vmipatch.recover import recover
from vmipatch.rewrite import region, rewrite
from vmipatch.scan.ledger import ByteClass
from vmipatch.scan.scan import scan
from vmipatch.verify.static import check_static
from vmipatch.verify.static.rules import CODE_PAGE, INSTRUCTION_CHANGED

FAR_JUMP = "66ea"
WAKEUP_LEN = 0xFF0
REAL_MODE = (
    # mov ax, 0xb800; mov fs, ax; cli; cld; mov ax, cs; mov ds, ax; push 0; popfd
    "b800b8 8ee0 fa fc 8cc8 8ed8 666a00 669d",
    # mov eax, [0x3d]; cmp eax, 0x12345678; jne .; lgdtd [0x2f]; mov eax, [0x35]; mov cr0, eax
    "66a13d00 663d78563412 75fe 660f01162f00 66a13500 0f22c0",
)
RESERVED = {
    "nops": (b"\x90" * 31 + b"\xc3") * 128,
    "int3": (b"\xc3" + b"\xcc" * 31) * 128,
    "zeros": bytes(PAGE),
}
"""xen-head.S of 3.x to 5.8, of 6.x, and of 2.6.23."""


def with_wakeup(kind: int = STT_NOTYPE) -> SmallKernel:
    """A page of real-mode code with variables that have labels, between functions that grow."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa 9c 58 b8", Word("wakeup_start"), "fb c3")
    kernel.text.align(PAGE)
    start_va = kernel.text.end_va
    kernel.text.label("wakeup_start", kind)
    kernel.text.put(*REAL_MODE, FAR_JUMP, Word("back"), "6000")
    for name in ("real_gdt", "real_cr0", "real_magic"):
        kernel.text.label(name, kind)
        kernel.text.put("fa00009c")
    kernel.text.put(bytes(start_va + WAKEUP_LEN - kernel.text.end_va))
    kernel.text.label("wakeup_end", kind)
    kernel.text.align(16, b"\0")
    kernel.text.put(bytes(16))
    kernel.text.function("back", "fa 0f20d8 0f22d8 c3", align=1)
    kernel.text.function("after", "c3")
    kernel.writable().put(Word("wakeup_end"), Word("real_magic"))
    return kernel


def with_reserved(page: bytes, filler_len: int) -> SmallKernel:
    """Xen's page with `filler_len` bytes of filler in front of it."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa fb fa b8", Word("hypercall_page"), "c3")
    kernel.text.put(b"\x40" * (-(kernel.text.end_va + 1 + filler_len) % PAGE), "c3")
    kernel.text.put(b"\x90" * filler_len)
    va = kernel.text.end_va
    kernel.labels["hypercall_page"] = va, STT_FUNC, PAGE
    for number in (1, 2, 5):
        kernel.labels[f"xen_hypercall_{number}"] = va + 32 * number, STT_FUNC, 32
    kernel.text.put(page)
    kernel.text.function("last", "9c 58 c3", align=1)
    kernel.text.function("after", "c3")
    kernel.writable().put(Word("hypercall_page", physical=True))
    return kernel


def proven(kernel: SmallKernel) -> RewrittenSmall:
    """The rewritten kernel, which its proof accepts."""
    done = kernel.rewrite()
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))
    return done


def test_page_of_real_mode_keeps_its_bytes_and_has_no_sites() -> None:
    kernel = with_wakeup()
    start_va, jump_len = kernel.va("wakeup_start"), 8
    found = scan(kernel.image())
    assert not [s for s in found.sites if start_va <= s.va < start_va + WAKEUP_LEN]
    account = found.ledger.sections[0]
    assert account.class_at(np.array([start_va + 5]))[0] == ByteClass.DATA
    assert account.length(ByteClass.UNKNOWN) == 0
    done = proven(kernel)
    assert done.va("wakeup_start") % PAGE == 0
    was = kernel.image().read(start_va, WAKEUP_LEN)
    now = done.code("wakeup_start", WAKEUP_LEN)
    word_at = now.index(bytes.fromhex(FAR_JUMP)) + 2
    assert now[:word_at] == was[:word_at]
    assert now[word_at + 4 :] == was[word_at + 4 :]
    assert int.from_bytes(now[word_at : word_at + 4], "little") == done.va("back")
    assert done.va("wakeup_end") - done.va("wakeup_start") == WAKEUP_LEN
    assert done.va("real_cr0") - done.va("wakeup_start") == word_at + jump_len - 2 + 4


def test_page_of_real_mode_of_a_kernel_alone_is_kept_as_well() -> None:
    found = recover(*ship(with_wakeup(STT_FUNC)))
    output = ElfImage.parse(rewrite(found.kernel).data)
    verdict = check_static(found.image, output, found.fixed)
    assert verdict.holds, "\n".join(map(str, verdict.findings))


def test_what_does_not_switch_to_protected_mode_is_code_of_32_bits() -> None:
    kernel = SmallKernel()
    kernel.text.align(PAGE)
    kernel.text.label("wakeup_start")
    kernel.text.put("fa fb c3")
    kernel.text.label("wakeup_end")
    kernel.text.function("after", "c3")
    assert code_pages(kernel.image()) == []
    assert [s.kind for s in scan(kernel.image()).sites][-2:] == ["cli", "sti"]


def test_byte_that_changed_in_the_page_is_found_by_the_proof() -> None:
    kernel = with_wakeup()
    done = proven(kernel)
    data = bytearray(done.image.data)
    data[done.image.offset_of(done.va("real_magic"))] ^= 1
    verdict = check_static(kernel.image(), ElfImage.parse(bytes(data)))
    assert INSTRUCTION_CHANGED in {finding.rule for finding in verdict.findings}


@pytest.mark.parametrize("filler_len", (0, 3, 15, 40))
@pytest.mark.parametrize("page", RESERVED.values(), ids=RESERVED)
def test_page_for_hypercalls_stays_aligned_whatever_filler_is_in_front(
    page: bytes, filler_len: int
) -> None:
    done = proven(with_reserved(page, filler_len))
    assert done.va("hypercall_page") % PAGE == 0
    assert done.code("hypercall_page", PAGE) == page
    assert done.va("xen_hypercall_5") - done.va("hypercall_page") == 5 * 32
    (held,) = struct.unpack("<I", done.image.read(done.kernel.blocks[-1].va, 4))
    assert held % PAGE == 0


def test_page_that_is_not_aligned_any_more_is_found_by_the_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = with_reserved(RESERVED["nops"], 3)
    monkeypatch.setattr(region, "_before_pages", lambda _map, _stream, paddings: paddings)
    done = kernel.rewrite()
    assert done.va("hypercall_page") % PAGE
    verdict = check_static(kernel.image(), done.image)
    assert CODE_PAGE in {finding.rule for finding in verdict.findings}
