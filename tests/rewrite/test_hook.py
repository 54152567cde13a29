# SPDX-License-Identifier: MIT
"""Is the runtime entered, whatever enters the kernel's C code, and is a kernel refused if nothing
does?
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import invoke
from tests.rewrite.smallkernel import Branch, Part, RewrittenSmall, Short, SmallKernel, Word
from vmipatch.errors import ExitCode, NotSupported
from vmipatch.files.open import open_kernel
from vmipatch.image.elf import ElfImage
from vmipatch.limits import Limit
from vmipatch.rewrite import RewriteOptions, rewrite
from vmipatch.verify.certificate import NEVER_SEEN_TO_START
from vmipatch.verify.static import check_static

MAIN = RewriteOptions(start="main")
BEGIN = "__vmi_start"


def kernel(*head: Part, main: tuple[Part, ...] = ("fa fb c3",)) -> SmallKernel:
    """A kernel whose C code begins at main, and in which `head` enters it."""
    small = SmallKernel()
    small.text.function("after_paging", *head)
    small.text.function("main", *main)
    return small


def rewritten(small: SmallKernel, options: RewriteOptions = MAIN) -> RewrittenSmall:
    done = rewrite(small.image(), options)
    return RewrittenSmall(small, done, ElfImage.parse(done.data, "rewritten"))


def findings(small: SmallKernel, output: ElfImage) -> set[str]:
    verdict = check_static(small.image(), output, must_run=True)
    return {rule.number for rule in verdict.totals}


def test_call_of_the_named_function_enters_the_runtime() -> None:
    small = kernel(Branch("e8", "main"), "c3")
    done = rewritten(small)
    assert done.target(done.va("after_paging") + 1) == done.va(BEGIN)
    assert not findings(small, done.image)


def test_jump_through_a_register_enters_the_runtime() -> None:
    """mov $main, %eax; jmp *%eax: as entry code does that still runs at physical addresses."""
    small = kernel("b8", Word("main"), "ffe0")
    done = rewritten(small)
    assert done.word(done.va("after_paging") + 1) == done.va(BEGIN)
    assert not findings(small, done.image)


def test_word_of_data_enters_the_runtime_where_nothing_else_does() -> None:
    small = kernel("ff25", Word("initial_code"), "c3")
    data = small.writable()
    data.label("initial_code")
    data.put(Word("main"), Word("after_paging"))
    done = rewritten(small)
    assert done.word(done.va("initial_code")) == done.va(BEGIN)
    assert done.word(done.va("initial_code") + 4) == done.va("after_paging")
    assert not findings(small, done.image)


def test_word_of_data_that_only_names_the_function_stays() -> None:
    """A kernel that holds a table of its own symbols, sorted by address, still finds them."""
    small = kernel(Branch("e8", "main"), "c3")
    data = small.writable()
    data.label("symbols")
    data.put(Word("after_paging"), Word("main"))
    done = rewritten(small)
    assert done.word(done.va("symbols") + 4) == done.va("main")
    assert not findings(small, done.image)


@pytest.mark.parametrize("opcode", ["eb", "74"])
def test_short_jump_becomes_near_to_reach_the_runtime(opcode: str) -> None:
    small = kernel(Short(opcode, "main"), "c3")
    done = rewritten(small)
    at = done.va("after_paging") + (1 if opcode == "eb" else 2)
    assert done.target(at) == done.va(BEGIN)
    assert not findings(small, done.image)


@pytest.mark.parametrize("has_size", [True, False])
def test_loop_to_the_first_instruction_of_the_function_stays_a_loop(has_size: bool) -> None:
    small = kernel(Branch("e8", "main"), "c3", main=("f4 fa", Short("eb", "main")))
    if not has_size:
        va, kind, _ = small.labels["main"]
        small.labels["main"] = (va, kind, 0)
    done = rewritten(small)
    va = done.va("main")
    code = done.image.read(va, 32)
    at = code.index(b"\xeb")
    assert (va + at + 2 + int.from_bytes(code[at + 1 : at + 2], "little", signed=True)) == va
    assert not findings(small, done.image)


def refused(small: SmallKernel, options: RewriteOptions | None = None) -> Limit:
    with pytest.raises(NotSupported) as error:
        open_kernel(small.build()).rewrite(options)
    assert "--start" in str(error.value) or error.value.limit is Limit.STUCK_BRANCH
    return error.value.limit


def test_kernel_whose_start_nothing_targets_is_refused() -> None:
    never = SmallKernel()
    never.is_entered = False
    never.text.function("start_kernel", "fa fb c3")
    assert refused(never) is Limit.NOT_ENTERED
    assert refused(kernel("c3")) is Limit.NOT_ENTERED, "it has no start_kernel"
    assert refused(kernel("c3"), MAIN) is Limit.NOT_ENTERED


def test_branch_that_cannot_reach_the_runtime_is_refused() -> None:
    assert refused(kernel("fa", Short("e2", "main"), "c3"), MAIN) is Limit.STUCK_BRANCH


def test_word_of_a_table_that_names_the_function_enters_nothing() -> None:
    """The exception table names functions, and enters none."""
    small = kernel("c3")
    table = small.block("__ex_table", 0xC1010000, small.text.flags & ~4)
    table.put(Word("main"), Word("after_paging"))
    small.bounds("__start___ex_table", "__stop___ex_table", table)
    assert refused(small, MAIN) is Limit.NOT_ENTERED


def test_name_of_no_function_or_of_several_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(kernel(Branch("e8", "main"), "c3").build())
    done = invoke("rewrite", path, "-o", tmp_path / "out", "--start", "mian")
    assert done.returncode == ExitCode.INPUT
    assert "mian" in done.stderr
    assert "\n" not in done.stderr.strip()
    assert not (tmp_path / "out").exists()


def test_proof_finds_a_way_in_that_was_not_redirected() -> None:
    small = kernel("b8", Word("main"), "ffe0")
    done = rewritten(small)
    data = bytearray(done.done.data)
    at = done.image.offset_of(done.va("after_paging") + 1)
    data[at : at + 4] = done.va("main").to_bytes(4, "little")
    assert "VP010" in findings(small, ElfImage.parse(bytes(data), "wrong"))


def test_proof_finds_a_runtime_that_nothing_enters() -> None:
    small = kernel("c3")
    output = ElfImage.parse(rewrite(small.image()).data, "never entered")
    assert findings(small, output) == {"VP007"}
    small.labels["start_kernel"] = small.labels["main"]
    small.is_entered = False
    output = ElfImage.parse(rewrite(small.image()).data, "never entered")
    assert findings(small, output) == {"VP007"}


@pytest.fixture(scope="module")
def renamed(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example kernel, whose C code has another name."""
    path = tmp_path_factory.mktemp("renamed") / "kernel"
    path.write_bytes(guest.read_bytes().replace(b"\0start_kernel\0", b"\0kernel_begin\0"))
    return path


def test_kernel_with_another_start_is_rewritten_and_verified(renamed: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "report"
    done = invoke("rewrite", renamed, "-o", out)
    assert done.returncode == ExitCode.INPUT
    assert "--start" in done.stderr
    done = invoke("rewrite", renamed, "-o", out, "--start", "kernel_begin")
    assert done.returncode == 0, done.stderr
    done = invoke("verify", out, "--original", renamed, "--quick", "--json", report)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["statement"] == "proven-and-booted"
    assert NEVER_SEEN_TO_START[0] not in done.stdout
    done = invoke("verify", out, "--original", renamed, "--static")
    assert done.returncode == 0, done.stderr
    assert " ".join(NEVER_SEEN_TO_START[0].split()[:4]) in " ".join(done.stdout.split())


def test_code_from_the_function_on_is_not_of_before_paging() -> None:
    """A kernel that never switches paging on, or does after its C code has begun: the runtime has
    run by then.
    """
    small = SmallKernel()
    small.entry = "head"
    small.text.function("head", "fa", Branch("e8", "main"), "f4")
    small.text.function("main", "fa", Branch("e8", "helper"), "fb c3")
    small.text.function("helper", "fa c3")
    done = rewritten(small)
    sites = {site.va for site, _ in done.done.sites}
    assert small.va("head") not in sites
    assert {small.va("main"), small.va("helper")} <= sites
    assert not findings(small, done.image)
