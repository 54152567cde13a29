# SPDX-License-Identifier: MIT
"""Is a wrong translation noticed? Thunks are made wrong, one way at a time."""

from __future__ import annotations

import pytest

from tests.verify.sites.kernels import example, paravirt_rom
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite, translate
from vmipatch.scan.site import Site
from vmipatch.verify.sites import check_sites
from vmipatch.verify.sites.shapes import shapes_of

DAMAGES = {
    "a register is not kept": ("mov from cr", "pop eax", "lea esp, [esp + 4]"),
    "flags are not kept": ("popf", "lea esp, [esp + 4]", "add esp, 4"),
    "the stack is left deeper": ("push cs", "push dword ptr", "push eax\npush dword ptr"),
    "the selector keeps its RPL": ("mov from ss", "lea eax, [eax - 1]", "lea eax, [eax]"),
    "the wrong register is read": ("mov to cr", "mov eax, ecx", "mov eax, edx"),
    "the wrong word is given back": ("pushf", "[esp + 12]", "[esp + 8]"),
    "memory by the user's segment": ("ltr", "movzx eax, word ptr ss:", "movzx eax, word ptr fs:"),
    "a port is another": ("in", "mov edx, 33", "mov edx, 34"),
    "one element too many": ("ins", "mov ecx, 1", "mov ecx, 2"),
    "the operand is off by four": ("sldt", "mov word ptr ss:[ecx]", "mov word ptr ss:[ecx + 4]"),
}  # fmt: skip
"""Kind of site, what its thunk says, and what it says wrongly."""


@pytest.mark.parametrize("name", DAMAGES)
def test_wrong_thunk_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, right, wrong = DAMAGES[name]
    make = translate._MAKERS[kind]
    changed = []

    def damaged(site: Site) -> translate.ThunkCode | None:
        code = make(site)
        if code is None or site.kind != kind:
            return code
        lines = "\n".join(code.lines).replace(right, wrong).split("\n")
        changed.append(tuple(lines) != code.lines)
        return translate.ThunkCode(tuple(lines), code.address)

    monkeypatch.setitem(translate._MAKERS, kind, damaged)
    image = ElfImage.parse(rewrite(example()).data, "damaged")
    assert any(changed)
    shapes = [shape for shape in shapes_of(image).shapes if shape.site.kind == kind]
    report = check_sites(image, paravirt_rom(), states=6, shapes=shapes)
    assert {finding.shape for finding in report.findings} <= {shape.name for shape in shapes}
    assert report.findings
