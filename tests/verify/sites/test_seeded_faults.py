# SPDX-License-Identifier: MIT
"""Is a wrong translation noticed, and a wrong fault? They are made wrong, one way at a time."""

from __future__ import annotations

import pytest

from tests.verify.sites.kernels import example, paravirt_rom, rewritten_example
from vmipatch.emu.hypervisor import control, returns
from vmipatch.emu.hypervisor.context import Context
from vmipatch.emu.hypervisor.paravirt import ParavirtPrivilege
from vmipatch.emu.processor.segment import SegmentState
from vmipatch.image.elf import ElfImage
from vmipatch.isa.operand import register_operand
from vmipatch.rewrite import rewrite, translate
from vmipatch.scan.site import Site
from vmipatch.tables.ex_table import EX_TABLE
from vmipatch.tables.table import Role
from vmipatch.tables.view import ImageView
from vmipatch.verify.sites import check_sites
from vmipatch.verify.sites.check import SiteFinding
from vmipatch.verify.sites.scene import KERNEL_DS, USER_DS
from vmipatch.verify.sites.shapes import shapes_of
from vmipatch.verify.static import check_static
from vmipatch.verify.static.rules import THUNK

DAMAGES = {
    "a register is not kept": ("mov from cr", "pop eax", "lea esp, [esp + 4]"),
    "flags are not kept": ("popf", "lea esp, [esp + 4]", "add esp, 4"),
    "the stack is left deeper": ("push cs", "push dword ptr", "push eax\npush dword ptr"),
    "the selector keeps its RPL": ("mov from ss", "lea eax, [eax - 1]", "lea eax, [eax]"),
    "the wrong register is read": ("mov to cr", "mov eax, ecx", "mov eax, edx"),
    "the wrong word is given back": ("pushf", "[esp + 12]", "[esp + 8]"),
    "a port is another": ("in", "mov edx, 33", "mov edx, 34"),
    "half of a register": ("sldt", "mov ebx, eax", "mov bx, ax"),
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


def through_a_thunk(site: Site) -> translate.ThunkCode:
    """A thunk that does what the instruction does, but for where its fault is seen."""
    if site.kind == "ins":
        lines = ("push ecx", "mov ecx, 1", translate._call(site), "pop ecx", "ret")
        return translate.ThunkCode(lines)
    if site.kind in ("lgdt", "sgdt"):
        return translate._invalidate(site)
    if register := register_operand(site.code, width=16):
        load = f"movzx eax, {register}"
        return translate.ThunkCode(("push eax", load, translate._call(site), "pop eax", "ret"))
    load, address = "movzx eax, word ptr ss:[eax]", translate._address(site, 8)
    from_memory = ("push eax", translate.ADDRESS, load, translate._call(site), "pop eax", "ret")
    return translate.ThunkCode(from_memory, address)


@pytest.mark.parametrize("kind", ["lgdt", "sgdt", "lldt", "ltr", "ins"])
def test_fault_inside_a_thunk_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(translate._MAKERS, kind, through_a_thunk)
    image = ElfImage.parse(rewrite(example()).data, "damaged")
    found = findings_of(kind, image, states=60)
    assert "event" in {difference.field for finding in found for difference in finding.differences}
    assert THUNK in {finding.rule for finding in check_static(example(), image).findings}


def findings_of(kind: str, image: ElfImage, states: int = 20) -> tuple[SiteFinding, ...]:
    shapes = [shape for shape in shapes_of(image).shapes if shape.site.kind == kind]
    return check_sites(image, paravirt_rom(), states=states, shapes=shapes).findings


def test_fault_that_the_exception_table_does_not_expect_is_found() -> None:
    """The table names the second byte of a padded instruction: the fault is at the first."""
    image = rewritten_example()
    sites = (shape.site for shape in shapes_of(image).shapes)
    site = next(site for site in sites if site.kind == "rdmsr" and site.fixup_va)
    assert site.fixup_va == site.va
    assert findings_of("rdmsr", image) == ()
    table = EX_TABLE.parse(ImageView.of(image))
    assert table is not None
    is_site = (table.words["target_va"] == site.va) & (table.words["role"] == Role.INSTRUCTION)
    (word,) = table.words[is_site]
    data = bytearray(image.data)
    off = image.offset_of(int(word["va"]))
    data[off : off + 4] = (int.from_bytes(data[off : off + 4], "little") + 1).to_bytes(4, "little")
    found = findings_of("rdmsr", ElfImage.parse(bytes(data), "damaged"))
    assert {difference.field for finding in found for difference in finding.differences} == {
        "fault that no fixup expects"
    }


def test_refused_return_that_is_blamed_on_another_place_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blame = ParavirtPrivilege._blame_iret_site

    def one_too_far(self: ParavirtPrivilege) -> None:
        blame(self)
        self._registers.eip += 1

    assert findings_of("iret", rewritten_example()) == ()
    monkeypatch.setattr(ParavirtPrivilege, "_blame_iret_site", one_too_far)
    found = findings_of("iret", rewritten_example())
    assert "event" in {d.field for finding in found for d in finding.differences}


def test_register_that_is_missing_but_not_refused_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "_msr", lambda context: context.registers.ecx)
    found = {finding.shape for finding in findings_of("wrmsr", rewritten_example())}
    assert found == {"wrmsr (direct)", "wrmsr fixup (direct)"}


def test_load_of_a_segment_that_is_not_checked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = returns._kernel_stack

    def unchecked(context: Context, selector: int) -> SegmentState:
        return whole(context, KERNEL_DS if selector == USER_DS else selector)

    assert findings_of("pop ss", rewritten_example()) == ()
    monkeypatch.setattr(returns, "_kernel_stack", unchecked)
    assert findings_of("pop ss", rewritten_example(), states=60)
