# SPDX-License-Identifier: MIT
"""`vmipatch scan`: the census of the sensitive instructions of a kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from vmipatch.cli.console import Console, json_option, json_output, pass_console, table
from vmipatch.cli.files import read_kernel
from vmipatch.cli.outputs import STDOUT, check_outputs, write_all
from vmipatch.image.module import is_linked_module
from vmipatch.isa.decode import text_of
from vmipatch.scan import Disposition, ScanResult, Site, scan
from vmipatch.scan.decodings import Bucket, Decodings, decodings_of
from vmipatch.scan.ledger import ByteClass, SectionAccount
from vmipatch.scan.made import Made, made_at_run_time

SCHEMA = "vmipatch.scan/2"


@click.command("scan", epilog="Example: vmipatch scan vmlinux --json sites.json")
@click.argument("kernel", type=click.Path())
@json_option
@pass_console
def scan_command(console: Console, kernel: str, json_file: str | None) -> None:
    """Count the sensitive instructions of KERNEL, by class and by what becomes of each."""
    check_outputs([kernel], [json_file])
    result = scan(read_kernel(kernel))
    decodings = decodings_of(result)
    made = made_at_run_time(result.image)
    if json_file is not None:
        write_all([json_output(json_file, SCHEMA, report(result, decodings, made))])
    if json_file != STDOUT:
        parts = [_census(result), _reasons(result), _bytes(result), _decodings(decodings)]
        parts += [_made(made)] if made else []
        console.data("\n\n".join(parts))
    for each in made:
        console.detail(f"{each.maker.what}: {each.maker.reason} ({each.maker.source})")
    for account in result.ledger.sections:
        for why, count in account.evidence.items():
            console.detail(f"{account.name}: {count} bytes: {why.value}")


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


def _bytes(result: ScanResult) -> str:
    rows = [
        (a.name, *(a.length(kind) for kind in ByteClass), a.end_va - a.start_va)
        for a in result.ledger.sections
    ]
    return table(["section", *(k.name.lower() for k in ByteClass), "bytes"], rows)


def _decodings(decodings: Sequence[Decodings]) -> str:
    rows = [
        (bucket.value, sum(sum(found.counts[bucket].values()) for found in decodings))
        for bucket in Bucket
    ]
    rows.append(("all", sum(found.total for found in decodings)))
    return table(["sensitive decodings at any byte", ""], rows)


def _made(made: Sequence[Made]) -> str:
    rows = [
        (each.maker.what, ", ".join(f"{n} {kind}" for kind, n in each.sensitive.items()) or "none")
        for each in made
    ]
    return table(["code made at run time (-v says why it is right)", "sensitive in it"], rows)


def report(
    result: ScanResult, decodings: Sequence[Decodings], made: Sequence[Made]
) -> dict[str, Any]:
    """The JSON report: sections with their bytes accounted for, and every site."""
    return {
        "kernel": result.image.name,
        "sections": [
            _section(account, found)
            for account, found in zip(result.ledger.sections, decodings, strict=True)
        ],
        "sites": [_site(result, site) for site in result.sites],
        "made_at_run_time": [
            {
                "what": each.maker.what,
                "template": each.template and f"{each.template[0]:08x}-{each.template[1]:08x}",
                "sensitive": each.sensitive,
                "reason": each.maker.reason,
                "source": each.maker.source,
            }
            for each in made
        ],
    }


def _section(account: SectionAccount, found: Decodings) -> dict[str, Any]:
    return {
        "name": account.name,
        "start_va": account.start_va,
        "end_va": account.end_va,
        "instructions": account.instructions,
        "bytes": {kind.name.lower(): account.length(kind) for kind in ByteClass},
        "evidence": {why.value: count for why, count in account.evidence.items()},
        "intervals": [
            f"{start:08x}-{end:08x} {kind.name.lower()}" for start, end, kind in account.intervals
        ],
        "decodings": {bucket.value: kinds for bucket, kinds in found.counts.items()},
        "decoding_intervals": [
            f"{start:08x}-{end:08x} {bucket.value} {count}"
            for start, end, bucket, count in found.intervals
        ],
    }


def _site(result: ScanResult, site: Site) -> dict[str, Any]:
    section = result.image.sections[site.section]
    return {
        "address": site.va - (section.va if is_linked_module(result.image) else 0),
        "section": section.name,
        "symbol": result.image.symbols.place_of(site.va),
        "bytes": site.code.hex(),
        "mnemonic": text_of(site.code, site.va),
        "class": site.kind,
        "vmi_call": None if site.call is None else int(site.call),
        "vmi_name": None if site.call is None else site.call.name,
        "disposition": site.disposition.value,
        "reason": site.reason.value,
    }
