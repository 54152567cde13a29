# SPDX-License-Identifier: MIT
"""Do data in code, and code that is copied, stay what they are when all code around them moves?"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from examples.multiboot.build import KEEP, START
from tests.cli.commands import invoke
from tests.rewrite.smallkernel import Branch, RewrittenSmall, SmallKernel, Word
from tests.support.elfbuilder import PAGE_OFFSET
from vmipatch.errors import ExitCode, InputNotUnderstood, NotSupported
from vmipatch.image.elf import ElfImage
from vmipatch.image.kept import Kept
from vmipatch.image.symbols import STT_OBJECT
from vmipatch.limits import Limit
from vmipatch.restore import restore
from vmipatch.rewrite import RewriteOptions, rewrite
from vmipatch.scan import scan
from vmipatch.scan.ledger import LedgerReason
from vmipatch.verify.certificate import UNREAD
from vmipatch.verify.static import check_static
from vmipatch.verify.static.verdict import StaticVerdict

COPIED = RewriteOptions(keep=("copy_start..copy_end",))
SIXTEEN = "fa 662e0f0116 1700 0f20c0 0c01 0f22c0 66ea 12800000 6000"
"""cli; lgdtl cs:[17h]; mov eax, cr0; or al, 1; mov cr0, eax; ljmpl 60h:8012h, all in 16 bits."""


def small(*, align: int = 4) -> SmallKernel:
    """Sites that grow, an object, more of them, and copied code with a word and a label inside."""
    kernel = SmallKernel(room=False)
    kernel.text.function("start_kernel", "fa fb fa fb fa fb f4 c3")
    kernel.text.align(align)
    kernel.text.label("descriptor", STT_OBJECT, 6)
    kernel.text.put("ff00", Word("start_kernel"))
    kernel.text.function("between", "fa 9c 58 fb fa fb c3")
    kernel.text.align(align)
    kernel.text.label("copy_start")
    kernel.text.put(SIXTEEN, "b8", Word("between", physical=True), "ffe0")
    kernel.text.label("copy_gdt")
    kernel.text.put("fafb", Word("copy_gdt"))
    kernel.text.label("copy_end")
    kernel.text.function("after", "fa fb c3")
    return kernel


def rewritten(kernel: SmallKernel, options: RewriteOptions = COPIED) -> RewrittenSmall:
    done = rewrite(kernel.image(), options)
    return RewrittenSmall(kernel, done, ElfImage.parse(done.data, "rewritten"))


def proof(kernel: SmallKernel, output: bytes) -> StaticVerdict:
    return check_static(kernel.image(), ElfImage.parse(output, "output"), must_run=True)


def test_copied_code_keeps_its_bytes_but_for_the_words_that_the_linker_filled_in() -> None:
    kernel = small()
    done = rewritten(kernel)
    assert done.va("copy_start") > kernel.va("copy_start"), "the code in front of it has grown"
    length = kernel.va("copy_end") - kernel.va("copy_start")
    for name in ("copy_gdt", "copy_end"):
        distance = kernel.va(name) - kernel.va("copy_start")
        assert done.va(name) - done.va("copy_start") == distance
    word, last = kernel.va("copy_gdt") - kernel.va("copy_start") - 6, length - 4
    expected = bytearray(kernel.image().read(kernel.va("copy_start"), length))
    expected[word : word + 4] = struct.pack("<I", done.va("between") - PAGE_OFFSET)
    expected[last:] = struct.pack("<I", done.va("copy_gdt"))
    assert done.code("copy_start", length) == expected


def test_sites_in_it_stay_native_and_those_around_it_are_rewritten() -> None:
    done = rewritten(small())
    inside = range(done.kernel.va("copy_start"), done.kernel.va("copy_end"))
    sites = [site.va for site, _ in done.done.sites]
    assert not [va for va in sites if va in inside]
    assert done.kernel.va("after") in sites and done.kernel.va("between") in sites


def test_proof_and_manifest_know_what_is_kept() -> None:
    kernel = small()
    done = rewritten(kernel)
    said = json.loads(done.image.section_bytes(done.image.section_by_name[".vmi.manifest"]))
    assert said["keep"] == ["copy_start..copy_end"]
    assert proof(kernel, done.done.data).findings == ()
    assert restore(done.image).data == kernel.image().data


def test_without_the_option_such_code_is_refused() -> None:
    with pytest.raises(NotSupported) as error:
        rewrite(small().image())
    assert error.value.limit is Limit.DATA_AMONG_CODE
    assert "--keep" in str(error.value)


@pytest.mark.parametrize("place", ["copy_start", "copy_gdt", "descriptor"])
def test_proof_finds_a_byte_that_changed(place: str) -> None:
    kernel = small()
    done = rewritten(kernel)
    data = bytearray(done.done.data)
    data[done.image.offset_of(done.va(place))] ^= 1
    assert proof(kernel, bytes(data)).findings


@pytest.mark.parametrize(
    "named", ["copy_start..copy_gdt", "after..copy_end", "copy_start..", "nothing..copy_end"]
)
def test_proof_finds_a_manifest_that_keeps_something_else(named: str) -> None:
    kernel = small()
    done = rewritten(kernel)
    spelt = named.encode().ljust(len(COPIED.keep[0]))
    data = done.done.data.replace(COPIED.keep[0].encode(), spelt)
    assert proof(kernel, data).findings


def test_object_is_data_and_its_word_follows() -> None:
    kernel = small()
    done = rewritten(kernel)
    assert done.code("descriptor", 2) == b"\xff\0"
    assert done.word(done.va("descriptor") + 2) == done.va("start_kernel")
    account = next(a for a in scan(kernel.image(), keep=COPIED.keep).ledger.sections)
    assert account.why(kernel.va("descriptor")) is LedgerReason.OBJECT
    assert account.why(kernel.va("copy_gdt")) is LedgerReason.KEPT


@pytest.mark.parametrize("align", [8, 64, 4096])
def test_alignment_of_what_is_kept_is_kept(align: int) -> None:
    kernel = small(align=align)
    done = rewritten(kernel)
    for name in ("descriptor", "copy_start"):
        assert kernel.va(name) % align == 0
        assert done.va(name) % align == 0
    assert proof(kernel, done.done.data).findings == ()


def test_site_in_an_object_is_not_one() -> None:
    """The bytes of cli and sti, in data."""
    kernel = SmallKernel(room=False)
    kernel.text.function("start_kernel", "fa c3")
    kernel.text.label("table", STT_OBJECT, 4)
    kernel.text.put("fa fb fa c3")
    done = rewritten(kernel, RewriteOptions())
    assert done.code("table", 4) == bytes.fromhex("fafbfac3")
    assert proof(kernel, done.done.data).findings == ()


@pytest.mark.parametrize(
    "name", ["copy_start", "copy_start..", "copy_end..copy_start", "nothing..copy_end", "a..b..c"]
)
def test_name_of_no_range_is_an_error(name: str) -> None:
    with pytest.raises(InputNotUnderstood, match=r"START\.\.END"):
        rewrite(small().image(), RewriteOptions(keep=(name,)))


def test_ranges_that_overlap_are_one() -> None:
    kernel = small()
    start, end = kernel.va("copy_start"), kernel.va("copy_end")
    kept = Kept.of(kernel.image(), ("copy_start..copy_gdt", "copy_start..copy_end"))
    assert kept.ranges[-1] == (start, end)


def test_output_in_which_the_range_ends_before_it_begins_is_a_finding() -> None:
    kernel = small()
    done = rewritten(kernel)
    symbol = done.image.symbols.by_name["copy_end"]
    table = done.image.section_by_name[".symtab"]
    data = bytearray(done.done.data)
    struct.pack_into("<I", data, table.off + 16 * symbol.index + 4, done.va("copy_start") - 16)
    assert "VP053" in {rule.number for rule in proof(kernel, bytes(data)).totals}


def test_command_takes_names_of_ranges(multiboot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = invoke("rewrite", multiboot, "-o", out, "--start", START, "--keep", "one")
    assert wrong.returncode == ExitCode.INPUT and "one" in wrong.stderr
    done = invoke("rewrite", multiboot, "-o", out, "--start", START, "--keep", KEEP)
    assert done.returncode == 0, done.stderr


def test_what_was_not_read_is_named(tmp_path: Path) -> None:
    """It may hold an instruction that is silently wrong at CPL 1: nothing was decoded there."""
    small = SmallKernel()
    small.text.function("start_kernel", Branch("e8", "kept"), "fa c3")
    small.text.align(16)
    small.text.label("begins")
    small.text.function("kept", "fa 9c 58 9d c3")
    small.text.align(16)
    small.text.label("ends")
    small.text.function("after", "fa c3")
    kernel, out, paper = (tmp_path / name for name in ("kernel", "out", "paper"))
    kernel.write_bytes(small.build())
    for options, should in (
        (("--keep", "begins..ends"), ["16 bytes of code" + UNREAD[0]]),
        ((), []),
    ):
        assert invoke("rewrite", kernel, "-o", out, *options).returncode == 0
        done = invoke("verify", out, "--original", kernel, "--static", "--certificate", paper)
        assert done.returncode == 0, done.stdout
        rows = [row["what"] for row in json.loads(paper.read_text())["not_done"]]
        assert [what for what in rows if "--keep" in what] == should
        out.unlink()
