# SPDX-License-Identifier: MIT
"""`vmipatch doctor`: what rewriting a file will do, refuse and lose, on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vmipatch.cli.console import Console, OutputPath, json_option, json_output, pass_console
from vmipatch.cli.rewrite import packed_summary, summary, summary_of_module
from vmipatch.cli.served import require_kind
from vmipatch.files.outputs import STDOUT, Output, check_outputs, write_all

if TYPE_CHECKING:
    from vmipatch.files.diagnosis import Diagnosis


@click.command(
    "doctor",
    epilog="Example: vmipatch doctor vmlinuz --debug vmlinux",
    short_help="Say what rewriting a kernel will do, refuse and lose.",
)
@click.argument("kernel", type=click.Path())
@click.option(
    "--debug",
    metavar="VMLINUX",
    type=click.Path(),
    help="For a bzImage: the vmlinux inside, with symbols and relocations.",
)
@click.option(
    "--bundle",
    "bundle_file",
    metavar="FILE",
    type=OutputPath(),
    help="Pack headers, tables, sites and versions for a report of a bug (.tar.gz): no code, no "
    "paths, no names of symbols.",
)
@click.option("--names", is_flag=True, help="Pack the names of symbols, too.")
@json_option
@pass_console
def doctor_command(
    console: Console,
    kernel: str,
    debug: str | None,
    bundle_file: str | None,
    names: bool,
    json_file: str | None,
) -> None:
    """Say what rewriting KERNEL (a vmlinux, a bzImage or a module) will do, refuse and lose.

    It is scanned and rewritten in memory; nothing is written but what is asked for. The exit code
    is 0 if `rewrite` will do it, else the one that `rewrite` will end with.
    """
    from vmipatch.files.kernel import KernelFile
    from vmipatch.files.open import open_any, open_kernel
    from vmipatch.files.tree import ModuleTree

    if names and bundle_file is None:
        raise click.UsageError("--names is for --bundle")
    check_outputs([kernel, debug], [bundle_file, json_file])
    file = open_any(kernel, keep_debug=False)
    require_kind(click.get_current_context(), file.kind, kernel)
    assert not isinstance(file, ModuleTree), "the table of kinds has no trees for doctor"
    if isinstance(file, KernelFile):
        twin = None if debug is None else open_kernel(debug, keep_debug=False)
        check_outputs(
            [*file.read_with, *(twin.read_with if twin else ())], [bundle_file, json_file]
        )
        found = file.doctor(debug=twin)
    else:
        found = file.doctor()
    _write(found, bundle_file, json_file, names)
    if STDOUT not in (json_file, bundle_file):
        console.data("\n".join(screen(found)))
        for table in found.tables:
            console.detail(f"{table.name.value}: {len(table)} entries ({table.layout})")
    if found.refusal is not None:
        raise click.exceptions.Exit(found.refusal.exit_code)


def _write(found: Diagnosis, bundle_file: str | None, json_file: str | None, names: bool) -> None:
    from vmipatch.files.bundle import bundle
    from vmipatch.files.diagnosis import SCHEMA

    outputs = []
    if bundle_file is not None:
        outputs.append(Output(bundle_file, bundle(found, names=names)))
    if json_file is not None:
        outputs.append(json_output(json_file, SCHEMA, found.report()))
    write_all(outputs)


def screen(found: Diagnosis) -> list[str]:
    """The lines of the screen: topic and text."""
    rows = [("file", _file(found))]
    if found.boot is not None:
        rows.append(("boot", _boot(found)))
    rows += [
        ("symbols", f"{found.symbols.count} ({found.symbols.source})"),
        ("relocations", f"{found.relocations.count} ({found.relocations.source})"),
        ("signature", _signature(found)),
    ]
    if found.census is not None:
        rows += [("tables", _tables(found)), ("sites", _sites(found))]
        rows += [("not understood", each) for each in found.census.tables_not_understood]
    rows += [("rewrite", line) for line in _done(found)]
    rows += [("lost", each) for each in found.losses]
    if found.refusal is not None:
        place = f"{found.refusal.place}: " if found.refusal.place else ""
        rows.append(("refused", place + found.refusal.message))
        rows.append(("what to do", found.refusal.hint))
    width = max(len(topic) for topic, _ in rows)
    return [f"{topic.ljust(width)}  {text}" for topic, text in rows if text]


def _file(found: Diagnosis) -> str:
    release = f", Linux {found.release}" if found.release else ""
    return f"{found.file.name}: {found.file.kind.value}, {len(found.file.data)} bytes{release}"


def _boot(found: Diagnosis) -> str:
    boot = found.boot
    assert boot is not None, "asked for a bzImage alone"
    parts = [f"protocol {boot.protocol}", f"payload {boot.compression or 'not understood'}"]
    parts.append("relocatable" if boot.is_relocatable else "not relocatable")
    parts.append(f"aligned to {boot.alignment:#x}")
    return ", ".join(parts + ["EFI stub"] * boot.has_efi)


def _signature(found: Diagnosis) -> str:
    if not found.signature_len:
        return "none"
    by = f", by {found.signer}" if found.signer else ""
    return f"{found.signature_len} bytes{by}"


def _tables(found: Diagnosis) -> str:
    count = sum(len(table) for table in found.tables)
    return f"{len(found.tables)} found, {count} entries (-v lists them)"


def _sites(found: Diagnosis) -> str:
    counts = found.dispositions
    shown = {each: n for each, n in counts.items() if n or each.value != "unknown"}
    parts = ", ".join(f"{count} {each.value}" for each, count in shown.items())
    return f"{sum(counts.values())}: {parts}"


def _done(found: Diagnosis) -> list[str]:
    """The lines that `rewrite` will say, without the name of a file."""
    from vmipatch.files.rewriting import RewrittenKernel

    made = found.made
    if made is None:
        return []
    if not isinstance(made, RewrittenKernel):
        return summary_of_module(made, "").splitlines()[:1]
    lines = [summary(made, "")]
    if made.packed is not None:
        whole = packed_summary(made.packed, len(found.file.data), "").splitlines()
        lines += whole[: len(whole) - len(made.packed.losses)]
    return [line.removeprefix(": ") for line in lines]
