# SPDX-License-Identifier: MIT
"""Does scan see in kernels that are not Linux what objdump sees, address by address?

Left out, and listed here with the reason: int3, which is padding; multiboot headers, which objdump
takes for code, and what it decodes wrong right after one; code of 16 bits, which both decode as 32,
and of which objdump prints names that carry the size; data between functions.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.scan.textual import disassemble
from tests.support import kernels
from vmipatch.files.census import census_of
from vmipatch.image.elf import ElfImage
from vmipatch.image.entry_points import header_ranges
from vmipatch.isa.classify import OPERAND_SIZE, classify
from vmipatch.scan import ScanResult, scan
from vmipatch.scan.site import Disposition

pytestmark = pytest.mark.distro

LONGEST = 15
"""Bytes of an instruction: so far objdump may be astray after a header."""
LEAST = {"gnumach": 3000, "gnumach-dbg": 3000, "gnumach-xen": 90, "gnumach-xen-dbg": 90,
         "grub": 30, "u-boot": 400}  # fmt: skip
"""Sites that a kernel has at least, whatever its version: nothing is compared if there are none."""
APART = {".start16": "code of 16 bits", ".efi_runtime": "tables between functions"}
"""Sections in which two decoders that start in the same place need not agree."""


@cache
def path_of(name: str) -> Path:
    return kernels.find_foreign(name) or missing(f"Debian's {name}", "make test-distro")


def instructions(result: ScanResult) -> dict[int, tuple[str, bytes]]:
    """Address, class and bytes of each sensitive instruction of the scan's sites."""
    found = {}
    for site in result.sites:
        stream = result.code_map.streams[site.section]
        first, last = stream.index_of(site.va), stream.index_over(site.end_va - 1)
        for index in range(first, last + 1):
            code = stream.bytes_at(index)
            if (form := classify(code)) is not None and form.kind != "int3":
                found[int(stream.starts[index])] = form.kind, code
    return found


def comparable(image: ElfImage) -> Callable[[int], bool]:
    """Whether an address is in none of what is left out."""
    headers = header_ranges(image)

    def judge(va: int) -> bool:
        section = image.section_at(va)
        apart = section is None or section.name in APART
        return not apart and not any(low <= va < high + LONGEST for low, high in headers)

    return judge


def is_narrow(kind: str, code: bytes) -> bool:
    """Whether it is `ljmpw` or `lcallw`: of 32 bits where code of 16 bits has it."""
    return kind in ("far jmp", "far call") and code[0] == OPERAND_SIZE


@pytest.mark.parametrize("name", kernels.FOREIGN_KERNELS)
def test_scan_sees_what_objdump_sees(name: str) -> None:
    path = path_of(name)
    image = ElfImage.parse(path.read_bytes(), name)
    counts = comparable(image)
    every = instructions(scan(image, tolerant=True))
    narrow = [va for va, (kind, code) in every.items() if is_narrow(kind, code)]
    ours = {va: kind for va, (kind, _) in every.items() if counts(va) and va not in narrow}
    theirs: dict[int, str] = {}
    for section in image.executable_sections:
        seen = disassemble(path, section.name).sensitive
        theirs |= {va: kind for va, kind in seen.items() if kind != "int3" and counts(va)}
    assert ours == theirs
    assert len(ours) >= LEAST[name]
    assert len(narrow) <= 10, "they are few"


@pytest.mark.parametrize("name", ["gnumach-dbg", "gnumach-xen-dbg"])
def test_kernel_without_its_symbols_has_the_same_sites(name: str, tmp_path: Path) -> None:
    stripped = tmp_path / name
    subprocess.run(["objcopy", "--strip-all", path_of(name), stripped], check=True)
    whole, bare = (ElfImage.parse(path.read_bytes(), name) for path in (path_of(name), stripped))
    assert len(whole.symbols) > 1000 and not len(bare.symbols)
    assert instructions(scan(whole)) == instructions(scan(bare))


@pytest.mark.parametrize("name", kernels.FOREIGN_KERNELS)
def test_report_says_how_sure_it_is(name: str) -> None:
    image = ElfImage.parse(path_of(name).read_bytes(), name)
    census = census_of(image)
    evidence = census.report()["evidence"]
    unknown = sum(site.disposition is Disposition.UNKNOWN for site in census.sites)
    assert evidence["symbols"] == bool(len(image.symbols))
    assert evidence["sites_unknown"] == unknown
    assert evidence["branches_astray"] <= evidence["branches"] // 1000
