# SPDX-License-Identifier: MIT
"""Do three opinions agree on how many sensitive instructions a kernel has, class by class?

The scan's ledger, objdump's text, and opcode patterns over the bytes. No class is left out of the
comparison, and these rules are all there is between them:

- a fused group of the ledger counts each of its sensitive instructions;
- objdump prints prefixes as words of their own, which do not change the class;
- objdump begins anew at each symbol, as the scan does, so the boundaries must be the same ones,
  but for fwait, which objdump joins with the x87 instruction after it;
- int3 is not a class: in a kernel it is padding and patching.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.scan.patterns import OPCODES, sensitive_in
from tests.scan.textual import CLASS_OF, Disassembly, class_of, disassemble
from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section
from vmipatch.isa.forms import FORMS
from vmipatch.scan import ScanResult, scan

Kernel = Callable[[str], Path]
each_kernel = pytest.mark.parametrize("name", ("tiny", "smp-pae"))
SECTIONS = (".text", ".init.text", ".altinstr_aux", ".altinstr_replacement", ".exit.text")


@cache
def scanned(vmlinux: Path) -> ScanResult:
    return scan(ElfImage.parse(vmlinux.read_bytes(), vmlinux.parent.name))


@cache
def sections_as_printed(vmlinux: Path) -> dict[Section, Disassembly]:
    sections = scanned(vmlinux).image.executable_sections
    return {section: disassemble(vmlinux, section.name) for section in sections}


@pytest.mark.kernels
@each_kernel
def test_all_agree_where_instructions_begin(kernel: Kernel, name: str) -> None:
    sections = sections_as_printed(kernel(name))
    assert {section.name for section in sections} >= set(SECTIONS)
    streams = scanned(kernel(name)).code_map.streams
    for section, printed in sections.items():
        assert printed.starts.tolist() == streams[section.index].starts.tolist(), section.name


@pytest.mark.kernels
@each_kernel
def test_all_agree_on_the_count_of_every_class(kernel: Kernel, name: str) -> None:
    result = scanned(kernel(name))
    seen: set[str] = set()
    for section, printed in sections_as_printed(kernel(name)).items():
        code = result.image.section_bytes(section)
        spelt = sensitive_in(code, section.va, printed.starts)
        assert spelt == printed.sensitive, section.name
        assert result.ledger.census(section.index) == Counter(spelt.values()), section.name
        seen |= set(spelt.values())
    assert {"cli", "sti", "pushf", "popf", "in", "out", "mov to cr", "svm", "far jmp"} <= seen


@pytest.mark.kernels
@each_kernel
def test_every_place_belongs_to_exactly_one_site(kernel: Kernel, name: str) -> None:
    result = scanned(kernel(name))
    places = [va for p in sections_as_printed(kernel(name)).values() for va in p.sensitive]
    owned = [va for s in result.sites for va in places_in(s.va, s.end_va, sorted(places))]
    assert owned == sorted(places)


def places_in(start_va: int, end_va: int, places: list[int]) -> list[int]:
    """Those of the ascending `places` that lie in [start_va, end_va)."""
    return places[bisect_left(places, start_va) : bisect_left(places, end_va)]


@pytest.mark.kernels
def test_far_calls_through_memory_are_counted(kernel: Kernel) -> None:
    """PCI BIOS calls: ff /3, which capstone prints as a near call."""
    through_memory = [s for s in scanned(kernel("smp-pae")).sites if s.code[0] == 0xFF]
    assert Counter(site.kind for site in through_memory) == {"far call": 7}


def test_all_opinions_know_the_same_classes() -> None:
    kinds = {form.kind for form in FORMS}
    moved = {f"mov {way} {what}" for way in ("to", "from") for what in ("cr", "dr", "segment")}
    selectors = {f"{verb} segment" for verb in ("push", "pop")} | moved
    selectors |= {"push cs", "push ss", "pop ss", "mov from cs", "mov from ss", "mov to ss"}
    assert set(OPCODES) == kinds
    assert set(CLASS_OF.values()) | selectors == kinds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("cli", "cli"),
        ("rep insw (%dx),%es:(%edi)", "ins"),
        ("mov    %gs:0x10,%eax", None),
        ("mov    %gs,0x28(%esp)", "mov from segment"),
        ("mov    %eax,%ss", "mov to ss"),
        ("mov    %eax,%db7", "mov to dr"),
        ("mov    %cr2,%ecx", "mov from cr"),
        ("push   %cs", "push cs"),
        ("pop    %ebp", None),
        ("int3", None),
        ("call   c1000000 <cli>", None),
        ("lcall  *(%esi)", "far call"),
        ("ljmp   $0x60,$0xc1000000", "far jmp"),
    ],
)
def test_printed_text_is_understood(text: str, kind: str | None) -> None:
    assert class_of(text) == kind
