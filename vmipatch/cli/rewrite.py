# SPDX-License-Identifier: MIT
"""`vmipatch rewrite`: a kernel with annotated VMI call sites."""

from __future__ import annotations

from typing import Any

import click

from vmipatch.cli.console import Console, json_option, json_output, pass_console
from vmipatch.cli.files import read_kernel
from vmipatch.cli.maps import address_map, system_map
from vmipatch.cli.outputs import Output, check_outputs, write_all
from vmipatch.image.elf import ElfImage
from vmipatch.restore import Gives
from vmipatch.rewrite import Padding, RewriteOptions, RewrittenImage, rewrite

SCHEMA = "vmipatch.rewrite/1"


@click.command("rewrite", epilog="Example: vmipatch rewrite vmlinux -o vmlinux.vmi")
@click.argument("kernel", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the new kernel goes.")
@click.option(
    "--pad",
    type=click.Choice([padding.value for padding in Padding]),
    default=Padding.PREFIX.value,
    show_default=True,
    help="Fill sites with redundant prefixes where they are ignored, or with nops everywhere.",
)
@click.option("--system-map", "map_file", type=click.Path(), help="Write a System.map.")
@click.option("--address-map", "moves_file", type=click.Path(), help="Write old and new addresses.")
@click.option(
    "--keep-original",
    is_flag=True,
    help="Let `vmipatch restore` give back debug sections too; the output is as long as a packed "
    "copy of them.",
)
@json_option
@pass_console
def rewrite_command(
    console: Console,
    kernel: str,
    output: str,
    pad: str,
    map_file: str | None,
    moves_file: str | None,
    keep_original: bool,
    json_file: str | None,
) -> None:
    """Rewrite KERNEL, a vmlinux with relocations and symbols, into a VMI kernel.

    Runs as before on bare hardware; what was done and what was left native is in its manifest.
    """
    check_outputs([kernel], [output, map_file, moves_file, json_file])
    result = rewrite(read_kernel(kernel), RewriteOptions(Padding(pad), keep_original))
    outputs = [Output(output, result.data, mode=0o755)]
    if map_file is not None:
        names = system_map(ElfImage.parse(result.data, output))
        outputs.append(Output(map_file, names.encode()))
    if moves_file is not None:
        outputs.append(Output(moves_file, address_map(result).encode()))
    if json_file is not None:
        outputs.append(json_output(json_file, SCHEMA, report(result, output)))
    write_all(outputs)
    console.say(_summary(result, output))
    if result.noted.gives is not Gives.INPUT:
        console.say(
            f"{output}: `vmipatch restore` gives back {result.noted.gives.text} "
            "(--keep-original keeps them)"
        )


def _summary(result: RewrittenImage, output: str) -> str:
    manifest, placement = result.manifest, result.placement
    left = len(manifest.native)
    dropped = f", {len(manifest.dropped)} debug sections dropped" if manifest.dropped else ""
    moved = (
        f"everything behind .text moved by {placement.shift_len:#x} bytes"
        if placement.shift_len
        else "no section behind .text moved"
    )
    return (
        f"{output}: {len(result.sites)} sites rewritten, {left} left native, "
        f"{result.added_len} bytes of padding added, {moved}{dropped}"
    )


def report(result: RewrittenImage, output: str) -> dict[str, Any]:
    """The JSON report."""
    manifest = result.manifest
    return {
        "kernel": result.scan.image.name,
        "output": output,
        "mode": manifest.mode,
        "shift_len": manifest.shift_len,
        "padding": manifest.padding,
        "input_sha256": manifest.input_sha256,
        "sites": manifest.sites,
        "added_len": result.added_len,
        "added_instructions": sum(body.added_instructions for _, body in result.sites),
        "dropped": list(manifest.dropped),
        "restore": {
            "gives": result.noted.gives.label,
            "sha256": result.noted.sha256,
            "note_len": result.noted.note_len,
        },
        "native": [
            {"address": site.va, "class": site.kind, "disposition": site.disposition,
             "reason": site.reason}
            for site in manifest.native
        ],
    }  # fmt: skip
