# SPDX-License-Identifier: MIT
"""`vmipatch scan`: the census of the sensitive instructions of a kernel."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from vmipatch.cli.console import Console, json_option, json_output, pass_console, table
from vmipatch.cli.files import read_kernel
from vmipatch.cli.outputs import STDOUT, check_outputs, write_all
from vmipatch.isa.decode import text_of
from vmipatch.scan import Disposition, ScanResult, Site, scan

SCHEMA = "vmipatch.scan/1"


@click.command("scan", epilog="Example: vmipatch scan vmlinux --json sites.json")
@click.argument("kernel", type=click.Path())
@json_option
@pass_console
def scan_command(console: Console, kernel: str, json_file: str | None) -> None:
    """Count the sensitive instructions of KERNEL, by class and by what becomes of each."""
    check_outputs([kernel], [json_file])
    result = scan(read_kernel(kernel))
    if json_file is not None:
        write_all([json_output(json_file, SCHEMA, report(result))])
    if json_file != STDOUT:
        console.data(_census(result))
        console.data("")
        console.data(_reasons(result))
    for account in result.ledger.sections:
        console.detail(
            f"{account.name}: {account.code_len} bytes of code, {account.padding_len} of padding, "
            f"{account.unknown_len} unknown, {account.instructions} instructions"
        )


def _census(result: ScanResult) -> str:
    kinds = sorted({site.kind for site in result.sites})
    counts = Counter((site.kind, site.disposition) for site in result.sites)
    columns = [[counts[kind, d] for kind in kinds] for d in Disposition]
    columns.append([sum(row) for row in zip(*columns, strict=True)])
    columns = [[*column, sum(column)] for column in columns]
    header = ["class", *(d.value for d in Disposition), "sites"]
    return table(header, list(zip([*kinds, "all"], *columns, strict=True)))


def _reasons(result: ScanResult) -> str:
    rows = [
        (count, disposition.value, reason.value)
        for (disposition, reason), count in result.ledger.dispositions().most_common()
    ]
    return table(["sites", "disposition", "why"], rows)


def report(result: ScanResult) -> dict[str, Any]:
    """The JSON report: sections with their bytes accounted for, and every site."""
    return {
        "kernel": result.image.name,
        "sections": [asdict(account) for account in result.ledger.sections],
        "sites": [_site(result, site) for site in result.sites],
    }


def _site(result: ScanResult, site: Site) -> dict[str, Any]:
    return {
        "address": site.va,
        "section": result.image.sections[site.section].name,
        "symbol": result.image.symbols.place_of(site.va),
        "bytes": site.code.hex(),
        "mnemonic": text_of(site.code, site.va),
        "class": site.kind,
        "vmi_call": None if site.call is None else int(site.call),
        "vmi_name": None if site.call is None else site.call.name,
        "disposition": site.disposition.value,
        "reason": site.reason.value,
    }
