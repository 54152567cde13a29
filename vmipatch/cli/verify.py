# SPDX-License-Identifier: MIT
"""`vmipatch verify`: whether a rewritten kernel still is the kernel it was made from."""

from __future__ import annotations

import sys

import click

from vmipatch.choices import CAMPAIGN_STATES, LIMIT_NS, STATES, Extent, Mode
from vmipatch.cli.console import Console, json_option, json_output, pass_console, table
from vmipatch.cli.files import digest_of, read_file, read_kernel, read_linked
from vmipatch.cli.modules import jobs_option, verify_module, verify_tree
from vmipatch.cli.outputs import STDOUT, Output, check_outputs, write_all
from vmipatch.cli.progress import NS_PER_S, progress_on
from vmipatch.errors import ExitCode, InputNotUnderstood
from vmipatch.image.bzimage import is_bzimage
from vmipatch.image.module import is_module
from vmipatch.image.packed import unpack
from vmipatch.verify.boots import BootResult
from vmipatch.verify.certificate import SCHEMA as CERTIFICATE_SCHEMA
from vmipatch.verify.certificate import certificate, left_out
from vmipatch.verify.coverage import Coverage
from vmipatch.verify.parallel import Watcher
from vmipatch.verify.plan import PHASES, Kernel, Request, verify
from vmipatch.verify.report_html import html_report
from vmipatch.verify.report_json import SCHEMA, as_json
from vmipatch.verify.report_sarif import sarif
from vmipatch.verify.verdict import Statement, Verdict, sensitive_exits

SHOWN = 12
"""Findings and classes on the screen; the reports have all."""

_BY_COMPARISON = (Extent.STATIC, Extent.LOCKSTEP)
"""What cannot be done without the original, and boots nothing whose sites are counted."""

_EXIT_CODES = {Statement.FAILS: ExitCode.FINDINGS, Statement.BELOW: ExitCode.BELOW}


@click.command("verify", epilog="Example: vmipatch verify vmlinux.vmi --original vmlinux")
@click.argument("kernel", type=click.Path())
@click.option("--original", type=click.Path(), help="The kernel that was rewritten.")
@click.option("--initrd", type=click.Path(), help="Boot with this file system, not with verify's.")
@click.option("--append", default="", help="More for the kernel's command line.")
@click.option(
    "--static",
    "extent",
    flag_value=Extent.STATIC.value,
    help="Only prove, instruction by instruction, that KERNEL is the original under an "
    "address map.",
)
@click.option(
    "--sites",
    "extent",
    flag_value=Extent.SITES.value,
    help="Only execute each shape of site, translated and native, in random states with faults.",
)
@click.option(
    "--states",
    type=click.IntRange(1),
    default=CAMPAIGN_STATES,
    show_default=True,
    metavar="N",
    help="Random states in which --sites executes each shape.",
)
@click.option(
    "--quick",
    "extent",
    flag_value=Extent.QUICK.value,
    help="The static check and one paravirtual boot.",
)
@click.option(
    "--full",
    "extent",
    flag_value=Extent.FULL.value,
    help="Every boot there is: trapped and unobserved paravirtual ones too.",
)
@click.option(
    "--lockstep",
    "extent",
    flag_value=Extent.LOCKSTEP.value,
    help="The static check, then the original, KERNEL and KERNEL on a ROM side by side, compared "
    "event by event.",
)
@click.option(
    "--require-coverage",
    "required",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Exit code 6 if fewer of a hundred sites were executed.",
)
@click.option(
    "--limit",
    type=click.FloatRange(0.001),
    default=LIMIT_NS / NS_PER_S,
    show_default=True,
    metavar="SECONDS",
    help="Virtual time for each boot.",
)
@click.option(
    "--certificate",
    "certificate_file",
    type=click.Path(),
    help="Write what was proven, observed and left out, with hashes, as JSON; stable to the byte.",
)
@click.option(
    "--sarif", "sarif_file", type=click.Path(), help="Write the static findings as SARIF."
)
@click.option("--report", "report_file", type=click.Path(), help="Write a page of HTML.")
@click.option(
    "--tree", "is_tree", is_flag=True, help="KERNEL and --original are directories of modules."
)
@jobs_option
@json_option
@pass_console
def verify_command(
    console: Console,
    kernel: str,
    original: str | None,
    initrd: str | None,
    append: str,
    extent: str | None,
    states: int,
    required: float | None,
    limit: float,
    certificate_file: str | None,
    sarif_file: str | None,
    report_file: str | None,
    is_tree: bool,
    jobs: int | None,
    json_file: str | None,
) -> None:
    """Check the rewritten KERNEL: proof from its bytes, boots in the emulator, comparison.

    Exit code 0 only if everything that was asked for holds. Without --original nothing is proven
    from the bytes; without --initrd the kernel runs a workload of verify's own.
    """
    if is_tree:
        if original is None:
            raise click.UsageError("--tree compares with the tree that --original names")
        verify_tree(console, kernel, original, jobs, json_file)
        return
    if original is not None and is_module(unpack(read_file(kernel), kernel)):
        verify_module(console, kernel, original, json_file)
        return
    wanted = Extent(extent or Extent.NORMAL.value)
    if wanted in _BY_COMPARISON and original is None:
        raise click.UsageError(f"--{wanted.value} compares with the kernel that --original names")
    if not PHASES[wanted] and required is not None:
        raise click.UsageError(f"--{wanted.value} counts no sites for --require-coverage")
    files = [report_file, json_file, sarif_file, certificate_file]
    check_outputs([kernel, original, initrd], files)
    request = Request(
        kernel=_kernel(kernel, original is not None),
        original=None if original is None else _original(original),
        extent=wanted,
        initrd=None if initrd is None else read_file(initrd),
        append=append,
        required_percent=required,
        limit_ns=int(limit * NS_PER_S),
        states=states if wanted is Extent.SITES else STATES,
    )
    quiet = console.verbosity < 0
    verdict = verify(request, Watcher() if quiet else progress_on(sys.stderr))
    outputs = []
    if json_file is not None:
        outputs.append(json_output(json_file, SCHEMA, as_json(verdict)))
    if report_file is not None:
        outputs.append(Output(report_file, html_report(verdict).encode()))
    if sarif_file is not None:
        outputs.append(Output(sarif_file, sarif(kernel, verdict.evidence.static)))
    if certificate_file is not None:
        content = certificate(request, verdict)
        outputs.append(json_output(certificate_file, CERTIFICATE_SCHEMA, content))
    write_all(outputs)
    if STDOUT not in files:
        console.data(summary(verdict))
    if code := _EXIT_CODES.get(verdict.statement):
        raise click.exceptions.Exit(code)


def _kernel(path: str, is_compared: bool) -> Kernel:
    """The rewritten one. Raises InputNotUnderstood if it cannot be compared with an original."""
    image = read_kernel(path)
    if is_compared and not len(image.symbols) and is_bzimage(read_file(path)):
        raise InputNotUnderstood(
            "what a bzImage holds has neither symbols nor relocations to compare",
            file=path,
            place=".symtab",
            hint="give what `rewrite --vmlinux` writes; without --original it is only booted",
        )
    return Kernel.of(image, file_sha256=digest_of(path))


def _original(path: str) -> Kernel:
    """What was rewritten; without symbols and relocations, what can be recovered of them."""
    linked = read_linked(path)
    return Kernel.of(linked.image, linked.fixed, digest_of(path), linked.source)


def summary(verdict: Verdict) -> str:
    """What a person reads: findings, phases, coverage, exits, and the verdict as the last line."""
    evidence = verdict.evidence
    findings = verdict.findings
    parts = ["\n".join(map(str, findings[:SHOWN]))] if findings else []
    if len(findings) > SHOWN:
        parts[-1] += f"\nand {len(findings) - SHOWN} findings more (--json has them)"
    if evidence.lockstep is not None and evidence.lockstep.history:
        parts.append("\n".join(evidence.lockstep.history))
    parts.append(_phase_table(verdict))
    if evidence.coverage is not None:
        parts.append(_coverage_text(evidence.coverage))
    deprivileged = [boot for boot in evidence.boots.values() if boot.mode is not Mode.NATIVE]
    if deprivileged:
        parts.append(_exit_text(deprivileged))
    reasons = evidence.sites.by_reason().most_common()
    if reasons:
        rows = [(count, reason) for reason, count in reasons]
        parts.append(table(["sites", "left native because"], rows))
    if missing := left_out(verdict):
        parts.append(table(["not done", "how to have it"], missing))
    parts.append(f"{evidence.kernel}: {verdict.statement.value}")
    return "\n\n".join(parts)


def _phase_table(verdict: Verdict) -> str:
    boots = verdict.evidence.boots
    rows = []
    for phase in verdict.phases:
        boot = boots.get(phase.phase)
        virtual = f"{boot.now_ns / NS_PER_S:.3f} s" if boot else "-"
        seconds = boot.seconds if boot else verdict.evidence.seconds.get(phase.phase)
        real = "-" if seconds is None else f"{seconds:.1f} s"
        rows.append((phase.phase.value, phase.outcome.value, phase.what, virtual, real))
    return table(["phase", "outcome", "", "virtual time", "took"], rows)


def _coverage_text(coverage: Coverage) -> str:
    touched = sum(share.executed > 0 for share in coverage.functions)
    head = (
        f"{coverage.whole.executed} of {coverage.whole.sites} sites executed paravirtually "
        f"({coverage.percent:.1f} %), in {touched} of {len(coverage.functions)} functions"
    )
    rows = [(share.name, share.executed, share.sites) for share in coverage.classes[:SHOWN]]
    rest = coverage.classes[SHOWN:]
    if rest:
        executed, sites = sum(s.executed for s in rest), sum(s.sites for s in rest)
        rows.append((f"{len(rest)} more", executed, sites))
    return f"{table(['class', 'executed', 'sites'], rows)}\n{head}"


def _exit_text(boots: list[BootResult]) -> str:
    rows = [(boot.phase.value, sensitive_exits(boot), sum(boot.exits.values())) for boot in boots]
    return table(["exits", "for sensitive instructions", "in all"], rows)
