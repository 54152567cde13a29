# SPDX-License-Identifier: MIT
"""`vmipatch wrap`: a bootable bzImage around a vmlinux."""

from __future__ import annotations

import click

from vmipatch.cli.console import Console, OutputPath, json_option, json_output, pass_console
from vmipatch.errors import escaped
from vmipatch.files.outputs import Output, check_outputs, write_all


@click.command(
    "wrap",
    epilog="Example: vmipatch wrap vmlinux.vmi -o bzImage",
    short_help="Put a bzImage around a vmlinux.",
)
@click.argument("kernel", type=click.Path())
@click.option("-o", "--output", required=True, type=OutputPath(), help="Where the bzImage goes.")
@click.option(
    "--kaslr/--no-kaslr",
    default=True,
    show_default=True,
    help="Let the boot code choose where the kernel runs, if it has relocations.",
)
@json_option
@pass_console
def wrap_command(
    console: Console, kernel: str, output: str, kaslr: bool, json_file: str | None
) -> None:
    """Put a bzImage with vmipatch's own boot code around KERNEL, an ELF file."""
    from vmipatch.files.open import open_kernel
    from vmipatch.files.wrapping import SCHEMA

    check_outputs([kernel], [output, json_file])
    done = open_kernel(kernel).wrap(kaslr=kaslr)
    outputs = [Output(output, done.data)]
    if json_file is not None:
        outputs.append(json_output(json_file, SCHEMA, done.report(kernel, output)))
    write_all(outputs)
    where = "where its boot code decides" if done.kaslr else "where it is linked"
    console.say(f"{escaped(output)}: {len(done.data)} bytes, runs {where}")
