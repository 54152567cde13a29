# SPDX-License-Identifier: MIT
"""Does `verify --xen` find a kernel the same on Xen, and one that is not?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import invoke
from tests.conftest import missing
from tests.support import kernels
from tests.xen.subjects import hypervisor, rewritten
from vmipatch.verify.user_space import Detail
from vmipatch.verify.xen.machine import XenOrder, run_on_xen

pytestmark = pytest.mark.xen


def test_kernel_is_the_same_on_xen_and_the_certificate_says_so(tmp_path: Path) -> None:
    built = kernels.find("smp-pae") or missing("the test kernel smp-pae")
    output, paper = tmp_path / "vmlinux.vmi", tmp_path / "certificate"
    output.write_bytes(rewritten("smp-pae").data)
    xen = hypervisor("xen-release").binary
    done = invoke(
        "verify", output, "--original", built.vmlinux, "--xen", xen, "--certificate", paper
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rewritten, domain 0 of Xen" in done.stdout
    told = json.loads(paper.read_text())["xen"]
    assert (told["outcome"], told["refused"], told["ending"]) == ("holds", 0, "reset")
    assert told["system_calls"] > 1000


def test_hypervisor_that_starts_nothing_is_told_of() -> None:
    """QEMU starts Xen, and Xen says that it has no domain 0."""
    xen = hypervisor("xen-release")
    order = XenOrder(str(xen.binary), "", b"no image", 128, 300, Detail.EXACT)
    seen = run_on_xen(order, lambda now_ns, line: None)
    assert seen.refused is None
    assert seen.calls == {}
    assert "Xen version" in seen.xen_console
