# SPDX-License-Identifier: MIT
"""Does a verdict fall with anything that a kernel does otherwise on Xen, or that Xen refuses it?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.commands import validated
from tests.verify.evidence import CONSOLE, boot, evidence, on_xen
from vmipatch.cli.console import json_output
from vmipatch.verify import workload
from vmipatch.verify.boots import Phase
from vmipatch.verify.certificate import certificate
from vmipatch.verify.judge import judge
from vmipatch.verify.plan import Kernel
from vmipatch.verify.report_json import SCHEMA, as_json
from vmipatch.verify.verdict import Aspect, Outcome, Verdict

RUNTIME = "vmi: paravirtual, 5 of 5 sites patched\n"
ENDS = "vmi: domain 0 ends, {} hypercalls were refused\n"


def judged(**changes: Any) -> Verdict:
    return judge(evidence(boot(Phase.NATIVE), on_xen=on_xen(**changes)))


def test_boot_that_is_like_the_native_one_holds() -> None:
    verdict = judged()
    (phase,) = (phase for phase in verdict.phases if phase.phase is Phase.XEN)
    assert phase.outcome is Outcome.HOLDS
    assert verdict.holds
    assert phase.what == "3 system calls, 0 hypercalls refused"


def test_lines_of_the_kernel_may_be_others() -> None:
    lines = "[    0.2] Memory: 9K\nFailed to access perfctr msr (MSR c0010007 is 0)\n"
    assert judged(console=f"{RUNTIME}{lines}{CONSOLE}").holds
    assert not judged(console=f"{RUNTIME}{lines.replace('c0010007', 'xyz')}{CONSOLE}").holds


@pytest.mark.parametrize(
    ("changes", "aspect"),
    [
        ({"how": "the kernel neither finished nor died in 9 s"}, Aspect.ENDING),
        ({"console": CONSOLE}, Aspect.SWITCH),
        ({"xen_console": ""}, Aspect.HYPERCALL),
        ({"xen_console": ENDS.format("1f")}, Aspect.HYPERCALL),
        ({"xen_console": f"(XEN) Assertion: BUG at mm.c\n{ENDS.format(0)}"}, Aspect.HYPERCALL),
        ({"console": f"{RUNTIME}{workload.DONE}\n"}, Aspect.CONSOLE),
        ({"console": RUNTIME + CONSOLE.replace("calls ok", "calls FAILED")}, Aspect.WORKLOAD),
        ({"console": f"{RUNTIME}{CONSOLE}BUG: bad page\n"}, Aspect.COMPLAINT),
        ({"calls": {"getpid()": 2}}, Aspect.USER_SPACE),
    ],
    ids=["no end", "native", "no ROM", "refused", "assertion", "line", "failure", "BUG", "calls"],
)
def test_whatever_is_otherwise_is_a_finding(changes: dict[str, Any], aspect: Aspect) -> None:
    verdict = judged(**changes)
    assert not verdict.holds
    found = [finding for finding in verdict.findings if finding.aspect is aspect]
    assert found
    assert {finding.phase for finding in verdict.findings} == {Phase.XEN}


def test_papers_name_the_hypervisor() -> None:
    verdict = judged()
    report = json_output("-", SCHEMA, as_json(verdict)).data.decode()
    told = validated(report, "verify-2")["xen"]
    assert told["hypervisor_sha256"] == "0" * 64
    assert (told["refused"], told["system_calls"], told["ending"]) == (0, 3, "reset")
    kernel = Kernel("small.vmi", b"", "1" * 64, "1" * 64)
    vouched = certificate(kernel, kernel, verdict)
    assert vouched["xen"] == {"outcome": "holds", **told}
    assert not [row for row in vouched["not_done"] if "--xen" in row["how"]]
    without = certificate(kernel, kernel, judge(evidence(boot(Phase.NATIVE))))
    assert "xen" not in without
    assert [row for row in without["not_done"] if "--xen" in row["how"]]
