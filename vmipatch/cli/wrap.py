# SPDX-License-Identifier: MIT
"""`vmipatch wrap`: a bootable bzImage around a vmlinux."""

from __future__ import annotations

import click

from vmipatch.cli.console import Console, pass_console
from vmipatch.cli.files import read_kernel, write_file
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.wrap import wrap


@click.command("wrap", epilog="Example: vmipatch wrap vmlinux.vmi -o bzImage")
@click.argument("kernel", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the bzImage goes.")
@click.option(
    "--kaslr/--no-kaslr",
    default=True,
    show_default=True,
    help="Let the boot code choose where the kernel runs, if it has relocations.",
)
@pass_console
def wrap_command(console: Console, kernel: str, output: str, kaslr: bool) -> None:
    """Put a bzImage with vmipatch's own boot code around KERNEL, an ELF file."""
    image = read_kernel(kernel)
    relocations = Relocations.of(image)
    words = relocation_list(image, relocations) if len(relocations) else None
    data = wrap(image, words, kaslr=kaslr)
    write_file(output, data)
    where = "where its boot code decides" if words is not None and kaslr else "where it is linked"
    console.say(f"{output}: {len(data)} bytes, runs {where}")
