# SPDX-License-Identifier: MIT
"""`vmipatch restore`: the kernel or module that was rewritten, to the last byte."""

from __future__ import annotations

import os

import click

from vmipatch.cli.console import Console, OutputPath, json_option, json_output, pass_console
from vmipatch.cli.served import require_kind
from vmipatch.cli.steps import steps_shown
from vmipatch.cli.trees import (
    jobs_option,
    progress,
    report_tree,
    require_apart,
    require_no_stream,
    tree_option,
)
from vmipatch.errors import escaped
from vmipatch.files.kind import MODULES
from vmipatch.files.outputs import Output, check_outputs, write_all
from vmipatch.names import base_name

SCHEMA = "vmipatch.restore/1"


@click.command(
    "restore",
    epilog="Example: vmipatch restore vmlinux.vmi -o vmlinux",
    short_help="Give back what a rewritten file was made from, byte for byte.",
)
@click.argument("kernel", type=click.Path())
@click.option("-o", "--output", required=True, type=OutputPath(), help="Where the kernel goes.")
@tree_option
@jobs_option
@json_option
@pass_console
def restore_command(
    console: Console,
    kernel: str,
    output: str,
    jobs: int | None,
    json_file: str | None,
) -> None:
    """Give back what KERNEL, a vmlinux, bzImage or module of `vmipatch rewrite`, was made from.

    Nothing is written unless it has the SHA-256 that the note in KERNEL names.
    """
    from vmipatch.files.open import open_any
    from vmipatch.files.tree import ModuleTree

    check_outputs([kernel], [json_file] if os.path.isdir(kernel) else [output, json_file])
    file = open_any(kernel)
    require_kind(click.get_current_context(), file.kind, kernel)
    if isinstance(file, ModuleTree):
        require_no_stream(output)
        require_apart(kernel, output, [json_file])
        with progress(console, file.files_count) as watch:
            done = file.restore(output, jobs=jobs, watch=watch)
        report_tree(console, output, done, json_file)
        return
    with steps_shown(console, kernel):
        restored = file.restore()
    outputs = [Output(output, restored.data, 0o644 if file.kind in MODULES else 0o755)]
    if json_file is not None:
        report = {
            "kernel": base_name(kernel),
            "output": base_name(output),
            "gives": restored.gives.label,
            "output_len": len(restored.data),
            "output_sha256": restored.sha256,
            "note_len": restored.note_len,
        }
        outputs.append(json_output(json_file, SCHEMA, report))
    write_all(outputs)
    console.say(f"{escaped(output)}: {len(restored.data)} bytes, {restored.gives.text}")
