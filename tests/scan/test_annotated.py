# SPDX-License-Identifier: MIT
"""Are the annotated call sites of the March 2006 patches listed, and is such a kernel served?"""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.vmi_guest.build13 import build_elf_13
from tests.cli.commands import invoke, validated
from tests.rewrite.smallkernel import SmallKernel
from tests.support.elfbuilder import TEXT, ElfBuilder
from vmipatch.choices import Mode
from vmipatch.errors import NotSupported
from vmipatch.files.open import open_kernel
from vmipatch.image.annotated import annotations_of
from vmipatch.image.elf import ElfImage
from vmipatch.limits import Limit
from vmipatch.rewrite import rewrite
from vmipatch.vmi.record13 import Annotations

TEXT_VA, TRANSLATION_VA, ANNOTATION_VA = 0xC0100000, 0xC0101000, 0xC0102000
CODE = bytes.fromhex("fb66666690890cd08974d0046666900f20d80f22d8c3")
"""`sti` and a nop; two stores of a descriptor and a nop; a reload of CR3."""
TRANSLATIONS = bytes.fromhex("e82300000056e8100000008d642404e838000000")
RECORDS = bytes.fromhex(
    "23000000" "000010c0" "001010c0" "05050400"
    "10000000" "050010c0" "051010c0" "0a0a0300"
    "38000000" "0f0010c0" "0f1010c0" "0605ff00"
)  # fmt: skip
"""As the macros of the patches make them, the first as it was published."""


def kernel(records: bytes = RECORDS) -> ElfBuilder:
    """A kernel with three annotated sites, in a section whose name decides nothing."""
    builder = ElfBuilder(entry=0x100000)
    text = builder.section(".text", TEXT_VA, CODE, TEXT)
    builder.section(".vmi.translation", TRANSLATION_VA, TRANSLATIONS, TEXT)
    builder.section(".vmi.annotation", ANNOTATION_VA, records)
    builder.symbol("startup_32", text.va, size=len(CODE), kind=2)
    return builder


def test_sites_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(kernel().build())
    done = invoke("scan", file, "--json", "-")
    report = validated(done.stdout, "scan-2")
    assert report["annotations"] == "march_2006"
    assert report["annotated_sites"] == [
        {
            "address": TEXT_VA, "symbol": "startup_32", "call": 35, "name": "EnableInterrupts",
            "native": "fb66666690", "padding": 4, "translation": "e823000000",
        },
        {
            "address": TEXT_VA + 5, "symbol": "startup_32+0x5", "call": 16,
            "name": "WriteGDTEntry", "native": "890cd08974d004666690", "padding": 3,
            "translation": "56e8100000008d642404",
        },
        {
            "address": TEXT_VA + 15, "symbol": "startup_32+0xf", "call": 56, "name": "FlushTLB",
            "native": "0f20d80f22d8", "padding": -1, "translation": "e838000000",
        },
    ]  # fmt: skip
    assert [site["mnemonic"] for site in report["sites"]] == ["sti", "mov eax,cr3", "mov cr3,eax"]


def test_summary_counts_them_by_call_and_names_each_on_request(tmp_path: Path) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(kernel().build())
    done = invoke("scan", "-v", file)
    lines = [" ".join(line.split()) for line in (done.stdout + done.stderr).splitlines()]
    assert "35 EnableInterrupts 1" in lines
    assert "all 3" in lines
    assert "startup_32+0x5: 890cd08974d004666690 becomes 56e8100000008d642404" in lines


@pytest.mark.parametrize(
    "records",
    [RECORDS.replace(b"\x23\0\0\0", b"\x24\0\0\0"), RECORDS[:-1], bytes(16)],
    ids=["another call", "broken size", "zeros"],
)
def test_section_of_that_name_with_other_records_is_said_to_be_neither(
    records: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(kernel(records).build())
    done = invoke("scan", file, "--json", "-")
    report = validated(done.stdout, "scan-2")
    assert (report["annotations"], report["annotated_sites"]) == ("unknown", [])
    assert "neither those of a rewritten kernel nor those of API 13" in done.stderr


def test_records_of_a_rewritten_kernel_are_ours(tmp_path: Path) -> None:
    small = SmallKernel()
    small.text.function("start_kernel", "fb 0f 20 c0 f4 c3")
    assert annotations_of(small.image()) is None
    rewritten = ElfImage.parse(rewrite(small.image()).data)
    assert annotations_of(rewritten) is Annotations.OURS
    assert open_kernel(rewritten.data).scan().report()["annotated_sites"] == []


@pytest.mark.parametrize("mode", [Mode.PARAVIRT, Mode.AUDIT])
def test_run_serves_the_rom_of_the_api_that_the_sites_are_for(mode: Mode) -> None:
    done = open_kernel(build_elf_13()).run(mode)
    assert done.console is not None
    *said, last = done.console.splitlines()
    assert said == ["version d.0", "ring 1"]
    assert last.endswith(" checks, 0 failed")


def test_annotated_kernel_is_not_rewritten_nor_put_on_xen() -> None:
    file = open_kernel(kernel().build())
    with pytest.raises(NotSupported) as caught:
        file.rewrite()
    assert caught.value.limit is Limit.ANNOTATED
    with pytest.raises(NotSupported) as caught:
        file.xen_image()
    assert caught.value.limit is Limit.XEN_NOT_REWRITTEN
    assert "3.1" in caught.value.hint
