# SPDX-License-Identifier: MIT
"""`vmipatch verify`: whether a rewritten kernel still is the kernel it was made from."""

from __future__ import annotations

from typing import Any

import click

from vmipatch.cli.console import STDOUT, Console, json_option, pass_console, table, write_json
from vmipatch.cli.files import read_kernel
from vmipatch.errors import ExitCode
from vmipatch.verify.static import StaticVerdict, check_static

SCHEMA = "vmipatch.verify/1"


@click.command("verify", epilog="Example: vmipatch verify --static vmlinux.vmi --original vmlinux")
@click.argument("kernel", type=click.Path())
@click.option(
    "--static",
    "static",
    is_flag=True,
    required=True,
    help="Prove, instruction by instruction, that KERNEL is the original under an "
    "address map. (The check that exists so far.)",
)
@click.option("--original", required=True, type=click.Path(), help="The kernel that was rewritten.")
@json_option
@pass_console
def verify_command(
    console: Console, kernel: str, static: bool, original: str, json_file: str | None
) -> None:
    """Check the rewritten KERNEL; exit code 1 if anything does not hold."""
    assert static, "click requires the option"
    verdict = check_static(read_kernel(original), read_kernel(kernel))
    if json_file is not None:
        write_json(json_file, SCHEMA, report(verdict, kernel, original))
    if json_file != STDOUT:
        console.data(_text(verdict, kernel))
    if not verdict.holds:
        raise click.exceptions.Exit(ExitCode.FINDINGS)


def _text(verdict: StaticVerdict, kernel: str) -> str:
    lines = [str(finding) for finding in verdict.findings]
    lines.append(table(["proven", "count"], [(k, v) for k, v in verdict.counts.items()]))
    found = sum(verdict.totals.values())
    outcome = (
        "holds: it is the original under an address map"
        if verdict.holds
        else f"does not hold: {found} findings (`vmipatch explain VPnnn` tells more)"
    )
    lines.append(f"{kernel}: static check {outcome}")
    return "\n".join(lines)


def report(verdict: StaticVerdict, kernel: str, original: str) -> dict[str, Any]:
    """The JSON report."""
    return {
        "kernel": kernel,
        "original": original,
        "holds": verdict.holds,
        "counts": verdict.counts,
        "totals": {rule.number: count for rule, count in verdict.totals.items()},
        "findings": [
            {
                "rule": finding.rule.number,
                "address": finding.va,
                "place": finding.place,
                "message": finding.message,
            }
            for finding in verdict.findings
        ],
    }
