# SPDX-License-Identifier: MIT
"""`vmipatch wrap`: a bootable bzImage around a vmlinux."""

from __future__ import annotations

import hashlib

import click

from vmipatch.cli.console import Console, json_option, json_output, pass_console
from vmipatch.cli.files import read_kernel
from vmipatch.cli.outputs import Output, check_outputs, write_all
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.wrap import wrap

SCHEMA = "vmipatch.wrap/1"


@click.command("wrap", epilog="Example: vmipatch wrap vmlinux.vmi -o bzImage")
@click.argument("kernel", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the bzImage goes.")
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
    check_outputs([kernel], [output, json_file])
    image = read_kernel(kernel)
    relocations = Relocations.of(image)
    words = relocation_list(image, relocations) if len(relocations) else None
    data = wrap(image, words, kaslr=kaslr)
    chosen_at_boot = words is not None and kaslr
    outputs = [Output(output, data)]
    if json_file is not None:
        report = {
            "kernel": kernel,
            "output": output,
            "output_len": len(data),
            "output_sha256": hashlib.sha256(data).hexdigest(),
            "kaslr": chosen_at_boot,
        }
        outputs.append(json_output(json_file, SCHEMA, report))
    write_all(outputs)
    where = "where its boot code decides" if chosen_at_boot else "where it is linked"
    console.say(f"{output}: {len(data)} bytes, runs {where}")
