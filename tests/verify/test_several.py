# SPDX-License-Identifier: MIT
"""Does `vmipatch verify` boot with several processors, and say what that cannot show?"""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from tests.cli.commands import ROOT, vmipatch
from tests.conftest import KernelFinder
from tests.verify.test_command import check_holds
from vmipatch.choices import Extent
from vmipatch.errors import ExitCode
from vmipatch.files.open import open_kernel
from vmipatch.files.verification import processors_of
from vmipatch.verify.certificate import ONE_PROCESSOR, TAKING_TURNS
from vmipatch.verify.console import normalised
from vmipatch.verify.processors import default_processors


def test_a_kernel_of_one_processor_does_not_mind_the_others(guest: Path, tmp_path: Path) -> None:
    """The example guest boots in a moment: audited, and once with other turns."""
    output, report, paper = (tmp_path / name for name in ("output", "report", "certificate"))
    assert vmipatch("rewrite", guest, "-o", output).returncode == ExitCode.SUCCESS
    done = vmipatch(
        "verify", output, "--original", guest, "--quick", "--cpus", "2", "--races", "1",
        "--json", report, "--certificate", paper,
    )  # fmt: skip
    assert done.returncode == ExitCode.SUCCESS, done.stdout + done.stderr
    found = json.loads(report.read_text())
    jsonschema.validate(found, json.loads((ROOT / "docs/schemas/verify-2.json").read_text()))
    assert found["processors"] == 2
    assert [race["turn_bytes"] for race in found["races"]] == [1500]
    assert {"phase": "raced", "outcome": "holds"}.items() <= found["phases"][-1].items()
    certificate = json.loads(paper.read_text())
    schema = json.loads((ROOT / "docs/schemas/certificate-1.json").read_text())
    jsonschema.validate(certificate, schema)
    assert TAKING_TURNS in certificate["never_covered"]
    assert not [line for line in certificate["not_done"] if "--races" in line["how"]]
    assert ONE_PROCESSOR not in certificate["never_covered"]


def test_lockstep_has_one_processor(guest: Path) -> None:
    done = vmipatch("verify", guest, "--original", guest, "--lockstep", "--cpus", "2")
    assert done.returncode == ExitCode.USAGE
    assert "--cpus does not serve --lockstep" in done.stderr


BY = "(who@where) (gcc (GCC) 4.1.2, GNU ld 2.17)"
BANNERS = {
    f"Linux version 2.6.16 {BY} #1 SMP Mon Mar 20 2006\n": 2,
    f"Linux version 4.15.0-generic {BY} #47~18.04.1-Ubuntu SMP Thu Sep 13 2018\n": 2,
    f"Linux version 6.1.0-50-686 {BY} #1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)\n": 2,
    f"Linux version 6.12.0 {BY} #1 SMP\n": 2,
    f"Linux version 6.1.176 {BY} #1 PREEMPT Sun Nov 22 2026\n": 1,
    f"Linux version 6.1.176-SMP {BY} #1 Sun Nov 22 2026\n": 1,
    "GUEST i386 kernel #1 SMP\n": 1,
}


@pytest.mark.parametrize("banner", BANNERS)
def test_kernel_says_itself_whether_it_is_for_several(banner: str) -> None:
    around = b"%s version %s (" + bytes(40)
    assert default_processors(around + banner.encode() + around) == BANNERS[banner]
    older = banner.replace("\n", "\0")
    assert default_processors(older.encode() + b"#1 SMP \0") == BANNERS[banner]


@pytest.mark.kernels
def test_user_chooses_and_what_boots_nothing_has_one(guest: Path, kernel: KernelFinder) -> None:
    alone, several = open_kernel(str(guest)), open_kernel(str(kernel("smp-pae")))
    assert [processors_of(each, Extent.QUICK, None) for each in (alone, several)] == [1, 2]
    assert [processors_of(each, Extent.FULL, 3) for each in (alone, several)] == [3, 3]
    for extent in (Extent.STATIC, Extent.SITES, Extent.LOCKSTEP):
        assert processors_of(several, extent, None) == 1


def test_races_of_one_processor_are_refused(guest: Path) -> None:
    done = vmipatch("verify", guest, "--original", guest, "--races", "2")
    assert done.returncode == ExitCode.USAGE
    assert "--races does not serve one processor" in done.stderr


def test_the_processor_that_a_process_ran_on_is_no_difference() -> None:
    lines = [f"sh[7]: segfault at 0 ip 1 sp 2 error 4 likely on CPU {n} (core 0, socket {n})"
             for n in range(2)]  # fmt: skip
    assert len(set(normalised(lines, smp=False))) == 1


@pytest.mark.slow
@pytest.mark.kernels
def test_check_of_an_smp_kernel_with_two_processors_holds(
    kernel: KernelFinder, rewritten: KernelFinder, tmp_path: Path
) -> None:
    """At least 500 of its sites are executed; with one processor it is 422."""
    report = check_holds(rewritten("smp-pae"), kernel("smp-pae"), tmp_path, "--races", "2")
    assert report["processors"] == 2
    assert report["coverage"]["executed"] >= 500
    assert len(report["races"]) == 2
