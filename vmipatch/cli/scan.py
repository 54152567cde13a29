# SPDX-License-Identifier: MIT
"""`vmipatch scan`: the census of the sensitive instructions of a kernel, a module or a tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vmipatch.cli.console import Console, address, json_option, json_output, pass_console
from vmipatch.cli.served import require_kind
from vmipatch.cli.steps import steps_shown
from vmipatch.cli.table import table
from vmipatch.cli.trees import SHOWN, jobs_option, progress
from vmipatch.errors import ExitCode, escaped
from vmipatch.files.outputs import STDOUT, check_outputs, write_all

if TYPE_CHECKING:
    from vmipatch.files.census import Census
    from vmipatch.files.tree import ModuleTree
    from vmipatch.scan import Disposition, ScanResult
    from vmipatch.scan.decodings import Decodings
    from vmipatch.scan.made import Made
    from vmipatch.vmi.record13 import Record13


@click.command(
    "scan",
    epilog="Example: vmipatch scan vmlinux --json sites.json",
    short_help="Count the sensitive instructions of a kernel, by class and fate.",
)
@click.argument("kernel", type=click.Path())
@click.option(
    "--base",
    callback=address,
    metavar="ADDRESS",
    help="Where a flat binary or the text of an a.out file is linked, such as 0x100000.",
)
@jobs_option
@json_option
@pass_console
def scan_command(
    console: Console, kernel: str, base: int | None, jobs: int | None, json_file: str | None
) -> None:
    """Count the sensitive instructions of KERNEL, by class and by what becomes of each.

    KERNEL is a vmlinux or any other ELF kernel for i386, a bzImage, a module or a directory of
    modules; with --base, a flat binary or an a.out file.
    """
    from vmipatch.files.open import open_any
    from vmipatch.files.tree import ModuleTree

    check_outputs([kernel], [json_file])
    file = open_any(kernel, base=base)
    require_kind(click.get_current_context(), file.kind, kernel)
    if isinstance(file, ModuleTree):
        _scan_tree(console, file, jobs, json_file)
        return
    with steps_shown(console, kernel):
        census = file.scan()
    if json_file is not None:
        from vmipatch.files.census import SCHEMA

        write_all([json_output(json_file, SCHEMA, census.report())])
    if json_file != STDOUT:
        console.data(summary(census))
    for reason in census.tables_not_understood:
        console.say(
            f"{escaped(kernel)}: {escaped(reason)}: the census goes without this table, "
            "and rewrite refuses the file"
        )
    for record in census.annotated:
        place = census.result.image.symbols.place_of(record.native_va)
        console.detail(
            f"{escaped(place)}: {record.native.hex()} becomes {record.translation.hex()}"
        )
    if census.has_unknown_annotations:
        console.say(
            f"{escaped(kernel)}: the records of its annotation section are neither those of a "
            "rewritten kernel nor those of API 13"
        )
    for each in census.made:
        console.detail(f"{each.maker.what}: {each.maker.reason} ({each.maker.source})")
    for account in census.result.ledger.sections:
        for why, count in account.evidence.items():
            console.detail(f"{escaped(account.name)}: {count} bytes: {why.value}")


def _scan_tree(console: Console, tree: ModuleTree, jobs: int | None, json_file: str | None) -> None:
    with progress(console, len(tree.modules)) as watch:
        census = tree.scan(jobs=jobs, watch=watch)
    if json_file is not None:
        from vmipatch.files.tree_census import SCHEMA

        write_all([json_output(json_file, SCHEMA, census.report())])
    if json_file != STDOUT:
        console.data(_census(census.counts()))
    wrong = [module for module in census.modules if module.is_wrong]
    for module in wrong[:SHOWN]:
        console.complain(module.message)
    if len(wrong) > SHOWN:
        console.complain(f"and {len(wrong) - SHOWN} modules more (--json has them)")
    console.say(f"{escaped(tree.name)}: {len(census.modules)} modules, {len(wrong)} not understood")
    if wrong:
        raise click.exceptions.Exit(ExitCode.INPUT)


def summary(census: Census) -> str:
    """The text for a person: tables of sites, reasons, bytes and decodings."""
    result = census.result
    parts = [_census(census.counts()), _reasons(result), _bytes(result)]
    parts.append(_decodings(census.decodings))
    parts += [_made(census.made)] if census.made else []
    parts += [_annotated(census.annotated)] if census.annotated else []
    return "\n\n".join(parts)


def _census(counts: Counter[tuple[str, Disposition]]) -> str:
    from vmipatch.scan import Disposition

    kinds = sorted({kind for kind, _ in counts})
    unknown = any(d is Disposition.UNKNOWN for _, d in counts)
    shown = [d for d in Disposition if unknown or d is not Disposition.UNKNOWN]
    columns = [[counts[kind, d] for kind in kinds] for d in shown]
    columns.append([sum(row) for row in zip(*columns, strict=True)])
    columns = [[*column, sum(column)] for column in columns]
    header = ["class", *(d.value for d in shown), "sites"]
    return table(header, list(zip([*kinds, "all"], *columns, strict=True)))


def _reasons(result: ScanResult) -> str:
    rows = [
        (count, disposition.value, reason.value)
        for (disposition, reason), count in result.ledger.dispositions().most_common()
    ]
    return table(["sites", "disposition", "why"], rows)


def _bytes(result: ScanResult) -> str:
    from vmipatch.scan.ledger import ByteClass

    rows = [
        (a.name, *(a.length(kind) for kind in ByteClass), a.end_va - a.start_va)
        for a in result.ledger.sections
    ]
    return table(["section", *(k.name.lower() for k in ByteClass), "bytes"], rows)


def _decodings(decodings: Sequence[Decodings]) -> str:
    from vmipatch.scan.decodings import Bucket

    rows = [
        (bucket.value, sum(sum(found.counts[bucket].values()) for found in decodings))
        for bucket in Bucket
    ]
    rows.append(("all", sum(found.total for found in decodings)))
    return table(["sensitive decodings at any byte", ""], rows)


def _annotated(annotated: Sequence[Record13]) -> str:
    from vmipatch.vmi.api13 import ROW_OF_13

    counts = Counter(record.call for record in annotated)
    rows: list[tuple[object, ...]] = [
        (int(call), ROW_OF_13[call].name, counts[call]) for call in sorted(counts)
    ]
    rows.append(("", "all", len(annotated)))
    return table(["call sites annotated for API 13 (-v lists them)", "call", "sites"], rows)


def _made(made: Sequence[Made]) -> str:
    rows = [
        (each.maker.what, ", ".join(f"{n} {kind}" for kind, n in each.sensitive.items()) or "none")
        for each in made
    ]
    return table(["code made at run time (-v says why it is right)", "sensitive in it"], rows)
