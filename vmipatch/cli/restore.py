# SPDX-License-Identifier: MIT
"""`vmipatch restore`: the kernel or module that was rewritten, to the last byte."""

from __future__ import annotations

import click

from vmipatch.cli.console import Console, json_option, json_output, pass_console
from vmipatch.cli.files import read_file
from vmipatch.cli.modules import jobs_option, restore_tree
from vmipatch.cli.outputs import Output, check_outputs, write_all
from vmipatch.image.bzimage import is_bzimage
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_module
from vmipatch.image.packed import unpack
from vmipatch.restore import restore, restore_bzimage, restore_module

SCHEMA = "vmipatch.restore/1"


@click.command("restore", epilog="Example: vmipatch restore vmlinux.vmi -o vmlinux")
@click.argument("kernel", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the kernel goes.")
@click.option(
    "--tree", "is_tree", is_flag=True, help="KERNEL is a directory: restore all modules in it."
)
@jobs_option
@json_option
@pass_console
def restore_command(
    console: Console,
    kernel: str,
    output: str,
    is_tree: bool,
    jobs: int | None,
    json_file: str | None,
) -> None:
    """Give back what KERNEL, a vmlinux, bzImage or module of `vmipatch rewrite`, was made from.

    Nothing is written unless it has the SHA-256 that the note in KERNEL names.
    """
    if is_tree:
        restore_tree(console, kernel, output, jobs, json_file)
        return
    check_outputs([kernel], [output, json_file])
    data, mode = read_file(kernel), 0o755
    if is_bzimage(data):
        restored = restore_bzimage(data, kernel)
    elif is_module(unpack(data, kernel)):
        restored, mode = restore_module(data, kernel), 0o644
    else:
        restored = restore(ElfImage.parse(data, kernel))
    outputs = [Output(output, restored.data, mode)]
    if json_file is not None:
        report = {
            "kernel": kernel,
            "output": output,
            "gives": restored.gives.label,
            "output_len": len(restored.data),
            "output_sha256": restored.sha256,
            "note_len": restored.note_len,
        }
        outputs.append(json_output(json_file, SCHEMA, report))
    write_all(outputs)
    console.say(f"{output}: {len(restored.data)} bytes, {restored.gives.text}")
