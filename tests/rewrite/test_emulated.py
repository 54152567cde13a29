# SPDX-License-Identifier: MIT
"""Is an instruction that Xen emulates, after a prefix of its own, what it was?"""

from __future__ import annotations

import pytest

from tests.rewrite.smallkernel import SmallKernel
from vmipatch.image.elf import ElfImage
from vmipatch.isa import decode as first
from vmipatch.rewrite import rewrite
from vmipatch.scan import zones
from vmipatch.scan.scan import scan
from vmipatch.scan.site import Reason
from vmipatch.verify.static import check_static
from vmipatch.verify.static.rules import EMULATED

ASKED = bytes.fromhex("0f0b") + b"xen" + bytes.fromhex("0fa2")


def asking() -> SmallKernel:
    """`f` asks for the cpuid of Xen, with code at the place where its letters seem to jump."""
    kernel = SmallKernel()
    kernel.text.function("f", "fa 89c6", ASKED, "0fa2 fb 90", "89d9 " * 60, "c3")
    kernel.text.function("last", "c3")
    return kernel


def test_prefix_and_its_instruction_keep_their_bytes_and_code_goes_on() -> None:
    kernel = asking()
    found = {site.va - kernel.va("f"): site for site in scan(kernel.image()).sites}
    assert (found[8].kind, found[8].reason) == ("cpuid", Reason.EMULATED)
    assert (found[10].kind, found[10].reason) == ("cpuid", Reason.CALL)
    done = kernel.rewrite()
    assert done.code("f", 14) == bytes.fromhex("3e3e3e3efa 89c6") + ASKED
    verdict = check_static(kernel.image(), done.image)
    assert verdict.holds, "\n".join(map(str, verdict.findings))


def test_site_after_a_prefix_is_found_by_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = asking()
    monkeypatch.setattr(zones, "emulated_prefixes", lambda _code: [])
    output = ElfImage.parse(rewrite(kernel.image()).data)
    verdict = check_static(kernel.image(), output)
    assert EMULATED in {finding.rule for finding in verdict.findings}


def test_letters_without_the_instruction_are_code() -> None:
    stream = first.decode(ASKED[:5] + b"\xc3" * 0x70, 0)
    assert stream.lens.tolist()[:3] == [2, 2, 1]
