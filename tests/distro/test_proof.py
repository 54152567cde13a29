# SPDX-License-Identifier: MIT
"""Are Debian's rewritten kernels proven, with every byte accounted for, within a gigabyte?"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.rewrite_speed import run
from tests.cli.commands import validated
from tests.distro.conftest import DistroFinder

pytestmark = pytest.mark.distro

VMIPATCH = (sys.executable, "-c", "from vmipatch.cli.main import main; main()", "--quiet")
MOST_LEN = 1 << 30
"""Bytes of memory that a proof may take."""


def test_static_check_holds_and_nothing_is_unknown(
    distro: DistroFinder, name: str, tmp_path: Path
) -> None:
    original, output = str(distro(name).vmlinux), str(tmp_path / "vmlinux.vmi")
    papers = tmp_path / "certificate.json", tmp_path / "findings.sarif"
    run([*VMIPATCH, "rewrite", original, "-o", output])
    command = [*VMIPATCH, "verify", "--static", output, "--original", original]
    done = run([*command, "--certificate", str(papers[0]), "--sarif", str(papers[1])])
    certificate = validated(papers[0].read_text(), "certificate-1")
    assert certificate["holds"]
    counts = certificate["proven"]["counts"]
    assert counts["bytes: unknown"] == 0
    assert counts["bytes: proven code"] > 9_000_000
    # Less than one byte of ten thousand is code that nothing refers to.
    assert counts["bytes: never executed"] < counts["bytes: proven code"] // 10_000
    buckets = [n for name, n in counts.items() if name.startswith("decodings: ")]
    assert sum(buckets) == counts["decodings"]
    assert counts["decodings: rewritten"] > 4000
    assert json.loads(papers[1].read_text())["runs"][0]["results"] == []
    assert done.peak_len < MOST_LEN


def test_scan_knows_every_byte(distro: DistroFinder, name: str, tmp_path: Path) -> None:
    file = tmp_path / "scan.json"
    run([*VMIPATCH, "scan", str(distro(name).vmlinux), "--json", str(file)])
    for section in validated(file.read_text(), "scan-2")["sections"]:
        assert section["bytes"]["unknown"] == 0, section["name"]
        assert section["decodings"]["unknown"] == {}, section["name"]
        size = section["end_va"] - section["start_va"]
        assert sum(section["bytes"].values()) == size
