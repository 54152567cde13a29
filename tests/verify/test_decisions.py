# SPDX-License-Identifier: MIT
"""Does the proof see that a decision of the rewriter was the wrong one, with all else in order?"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable

import pytest

from tests.rewrite.smallkernel import Branch, SmallKernel, Word
from tests.rewrite.test_computed_entries import emulator
from tests.verify.pair import build_original
from vmipatch.image.elf import ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.isa.classify import call_of
from vmipatch.rewrite.rewrite import rewrite
from vmipatch.scan.site import Fusion, Reason, Sighting
from vmipatch.verify.static import check_static
from vmipatch.verify.static.reasons import NativeReason
from vmipatch.verify.static.reproduce.check import check_file
from vmipatch.verify.static.sites import FAULTS_AT_ITS_SITE, LAID_OUT

scan = importlib.import_module("vmipatch.scan.scan")
site = importlib.import_module("vmipatch.scan.site")


def broken(image: ElfImage) -> set[str]:
    """The rules that `image` breaks when it is rewritten now."""
    return {rule.number for rule in check_static(image, output(image)).totals}


def output(image: ElfImage) -> ElfImage:
    """`image`, rewritten now."""
    return ElfImage.parse(rewrite(image).data, "output")


def named(name: str) -> ElfImage:
    """A kernel whose function `name` holds sites."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", Branch("e8", name), "fa c3")
    kernel.text.function(name, "fa 0f20d8 fb c3")
    kernel.text.function("after", "c3")
    kernel.rodata().put(Word(name))
    return kernel.image()


def stubs() -> ElfImage:
    """A kernel with sites in functions at computed distances."""
    return emulator(16, ("fa c3", "fa 40 c3", "fa 01d0 c3")).image()


def emulated() -> ElfImage:
    """A kernel that asks Xen to emulate a cpuid."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "fa 0f0b 78656e 0fa2 fb c3")
    return kernel.image()


def ignore_zones(monkeypatch: pytest.MonkeyPatch, reason: Reason) -> None:
    """Let the scan decide as if no range were a zone for `reason`."""
    decide = scan._verdict

    def _verdict(seen: Sighting, movable: bool, zone: object) -> object:
        return decide(seen, movable, None if getattr(zone, "reason", None) is reason else zone)

    monkeypatch.setattr(scan, "_verdict", _verdict)


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        (Reason.BEFORE_PAGING, build_original),
        (Reason.COPIED, lambda: named("relocate_kernel")),
        (Reason.COPIED, lambda: named("restore_image")),
        (Reason.FIRMWARE, lambda: named("bios32_service")),
        (Reason.FIXED_STRIDE, stubs),
        (Reason.EMULATED, emulated),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_record_in_a_zone_is_found(
    reason: Reason, make: Callable[[], ElfImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert broken(make()) == set()
    ignore_zones(monkeypatch, reason)
    assert "VP086" in broken(make())


@pytest.mark.parametrize("pair", ("fb f4", "fb 0f35", "9c 58", "9c 5f"))
def test_half_of_a_pair_is_found(pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "31c0", pair, "31c0 c3")
    assert broken(kernel.image()) == set()
    monkeypatch.setattr(site, "_fuse", alone)
    assert broken(kernel.image()) == {"VP088"}


def alone(code_map: object, stream: object, index: int, form: object) -> Sighting:
    """Each instruction is a site of its own."""
    va, code = int(stream.starts[index]), stream.bytes_at(index)  # type: ignore[attr-defined]
    call = call_of(form, code)  # type: ignore[arg-type]
    return Sighting(va, code, (form,), Fusion.NONE, call, form.treatment)  # type: ignore[arg-type, attr-defined]


@pytest.mark.parametrize("second", ("f4", "0f35", "0f01c9"))
def test_sti_before_what_something_points_to_stays(
    second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for it would end the shadow, and both cannot be one site."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "31c0 fb")
    kernel.text.label("waits")
    kernel.text.put(second, "31c0 c3")
    kernel.rodata().put(Word("waits"))
    image = kernel.image()
    assert broken(image) == set()
    sti_va = kernel.va("waits") - 1
    assert [s.call for s in scan.scan(image).sites if s.va == sti_va] == [None]
    monkeypatch.setattr(site, "_fuse", alone)
    assert broken(image) == {"VP088"}


def test_second_half_of_a_pair_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hlt has a record, the sti before it none."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "31c0 fb f4 31c0 c3")
    monkeypatch.setattr(site, "_fuse", alone)
    decide = scan._verdict

    def _verdict(seen: Sighting, movable: bool, zone: object) -> object:
        return decide(seen, movable and seen.code != b"\xfb", zone)

    monkeypatch.setattr(scan, "_verdict", _verdict)
    assert {"VP087", "VP088"} <= broken(kernel.image())


def test_site_that_the_exception_table_names_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "0f22d8 c3")
    image = kernel.image()
    assert broken(image) == set()
    monkeypatch.setattr(
        "vmipatch.verify.static.sites._faulting", lambda _: frozenset({kernel.va("start_kernel")})
    )
    assert broken(image) == {"VP086"}


NATIVE = "no VMI call exists; it faults at CPL 1 and is emulated"
OF_THE_FILE = {rule.number for rule in check_file.rules}


def with_reason(image: ElfImage, old: str, new: str) -> ElfImage:
    """`image` whose manifest gives another reason."""
    manifest = json.loads(image.section_bytes(image.section_by_name[".vmi.manifest"]))
    (entry,) = [each for each in manifest["native"] if each["reason"] == old]
    entry["reason"] = new
    return with_manifest(image, manifest)


def with_manifest(image: ElfImage, manifest: object) -> ElfImage:
    """`image` with another manifest."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    contents = [
        Content(s, text if s.name == ".vmi.manifest" else image.section_bytes(s))
        for s in image.sections
    ]
    loaded = max(load.off + load.file_len for load in image.loads)
    data = write_elf(image, image.data[:loaded], contents, image.segments)
    return ElfImage.parse(data, "other manifest")


@pytest.mark.parametrize("why", [*NativeReason, "because I say so", "\x1b[2J"])
def test_reason_that_does_not_hold_is_found(why: NativeReason | str) -> None:
    """A wbinvd has a call, an rsm has none; each other reason is about places it is not in."""
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "31c0 0faa fa c3")
    image = kernel.image()
    right = output(image)
    wrong = with_reason(right, NATIVE, why.value if isinstance(why, NativeReason) else why)
    found = {rule.number for rule in check_static(image, wrong).totals}
    # The file is put together anew, in another form than the rewriter's, which is found at last.
    assert found - OF_THE_FILE == (set() if why is NativeReason.NO_CALL else {"VP087"})


@pytest.mark.parametrize("place", ("inside", "harmless", "recorded", "nowhere"))
def test_listed_instruction_that_is_not_native_is_found(place: str) -> None:
    kernel = SmallKernel()
    kernel.text.function("start_kernel", "31c0 0faa fa c3")
    image = kernel.image()
    done = output(image)
    start_va = done.symbols.address("start_kernel") or 0
    vas = {"inside": start_va + 1, "harmless": start_va, "recorded": start_va + 4, "nowhere": 0}
    manifest = json.loads(done.section_bytes(done.section_by_name[".vmi.manifest"]))
    extra = dict(manifest["native"][0], va=vas[place])
    manifest["native"].append(extra)
    found = {rule.number for rule in check_static(image, with_manifest(done, manifest)).totals}
    assert found == {"VP087"}


def test_reasons_are_those_of_the_scan() -> None:
    rewritten = {Reason.CALL, Reason.CALL_IN_ALTERNATIVE, Reason.TRAMPOLINE}
    native = {*Reason} - rewritten - {Reason.SAME_AT_CPL1, Reason.BY_DESCRIPTOR}
    native -= {Reason.NOT_PROVEN}  # of bytes that may not be code: nothing becomes of them
    assert {reason.value for reason in native} == {why.value for why in NativeReason}


def test_facts_about_sites_are_those_of_the_scan() -> None:
    assert FAULTS_AT_ITS_SITE == scan.FAULTING
    assert LAID_OUT == scan.LAID_OUT
