# SPDX-License-Identifier: MIT
"""`vmipatch rewrite`: a kernel with annotated VMI call sites."""

from __future__ import annotations

from typing import Any

import click

from vmipatch.choices import BootCodeChoice, Padding
from vmipatch.cli.console import Console, json_option, json_output, pass_console
from vmipatch.cli.files import linked_in, read_file, read_kernel
from vmipatch.cli.maps import address_map, system_map
from vmipatch.cli.modules import SCHEMA as TREE_SCHEMA
from vmipatch.cli.modules import (
    describe,
    jobs_option,
    rewrite_packed,
    rewrite_tree,
    summary_of_module,
)
from vmipatch.cli.modules import report as tree_report
from vmipatch.cli.outputs import Output, check_outputs, write_all
from vmipatch.image.bzimage import BzImage, is_bzimage
from vmipatch.image.elf import ElfImage
from vmipatch.image.linked import LinkedKernel
from vmipatch.image.module import is_module
from vmipatch.image.packed import unpack
from vmipatch.restore import Gives, Noted
from vmipatch.rewrite import RewriteOptions, RewrittenImage, Treatment, rewrite
from vmipatch.rewrite.bzimage import RewrittenBzImage, rewrite_bzimage

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
@click.option(
    "--debug",
    metavar="VMLINUX",
    type=click.Path(),
    help="For a bzImage: the vmlinux inside, with symbols and relocations.",
)
@click.option(
    "--boot-code",
    type=click.Choice([choice.value for choice in BootCodeChoice]),
    default=BootCodeChoice.AUTO.value,
    show_default=True,
    help="For a bzImage: keep its boot code or use vmipatch's own; auto keeps what it understands.",
)
@click.option("--vmlinux", "twin_file", type=click.Path(), help="Write the vmlinux of the output.")
@click.option("--system-map", "map_file", type=click.Path(), help="Write a System.map.")
@click.option("--address-map", "moves_file", type=click.Path(), help="Write old and new addresses.")
@click.option(
    "--keep-original",
    is_flag=True,
    help="Let `vmipatch restore` give back everything, debug sections too; the output holds a "
    "packed copy of what a note cannot tell.",
)
@click.option(
    "--tree", "is_tree", is_flag=True, help="KERNEL is a directory: rewrite all modules in it."
)
@jobs_option
@json_option
@pass_console
def rewrite_command(
    console: Console,
    kernel: str,
    output: str,
    pad: str,
    debug: str | None,
    boot_code: str,
    twin_file: str | None,
    map_file: str | None,
    moves_file: str | None,
    keep_original: bool,
    is_tree: bool,
    jobs: int | None,
    json_file: str | None,
) -> None:
    """Rewrite KERNEL for VMI: a vmlinux with relocations and symbols, a bzImage, or a module.

    Of a vmlinuz or ELF file without them, what can be proven is recovered and rewritten.
    Runs as before on bare hardware; what was done and what was left native is in its manifest.
    """
    options = RewriteOptions(Padding(pad), keep_original)
    if is_tree:
        _refuse_for_modules(map_file, moves_file, debug, twin_file)
        rewrite_tree(console, kernel, output, options, jobs, json_file)
        return
    check_outputs([kernel, debug], [output, twin_file, map_file, moves_file, json_file])
    data = read_file(kernel)
    if is_module(unpack(data, kernel)):
        _refuse_for_modules(map_file, moves_file, debug, twin_file)
        _rewrite_module(console, data, kernel, output, options, json_file)
        return
    if debug is not None and not is_bzimage(data):
        raise click.UsageError(f"--debug is for a bzImage, and {kernel} is none")
    read = BzImage.parse(data, kernel) if is_bzimage(data) else None
    linked = _linked(data, kernel, debug, keep_original)
    packed = None
    if read is not None:
        choice = BootCodeChoice(boot_code)
        packed = rewrite_bzimage(data, read, linked, options, choice)
        result = packed.kernel
        outputs = [Output(output, packed.data)]
    else:
        data = b""  # 300 MB of a distribution's vmlinux, of which `linked` holds what matters
        result = rewrite(linked, options)
        outputs = [Output(output, result.data, mode=0o755)]
    noted = packed.noted if packed else result.noted
    if twin_file is not None:
        outputs.append(Output(twin_file, result.data, mode=0o755))
    if map_file is not None:
        names = system_map(ElfImage.parse(result.data, output))
        outputs.append(Output(map_file, names.encode()))
    if moves_file is not None:
        outputs.append(Output(moves_file, address_map(result).encode()))
    if json_file is not None:
        made = report(result, output, noted, linked.is_recovered) | _packed_report(packed)
        outputs.append(json_output(json_file, SCHEMA, made))
    write_all(outputs)
    console.say(_summary(result, output))
    if packed is not None:
        console.say(_packed_summary(packed, len(data), output))
    if noted is not None and noted.gives is not Gives.INPUT:
        console.say(
            f"{output}: `vmipatch restore` gives back {noted.gives.text} "
            "(with --keep-original all of it)"
        )


def _linked(data: bytes, kernel: str, debug: str | None, whole: bool) -> LinkedKernel:
    twin = None if debug is None else LinkedKernel.complete(read_kernel(debug))
    linked = twin or linked_in(data, kernel)
    return linked if whole else linked.without_debug()


def _refuse_for_modules(*files: str | None) -> None:
    """Raise click.UsageError if an option for kernels alone was given."""
    if any(file is not None for file in files):
        raise click.UsageError("a module has no System.map, address map, debug twin or vmlinux")


def _rewrite_module(
    console: Console,
    data: bytes,
    kernel: str,
    output: str,
    options: RewriteOptions,
    json_file: str | None,
) -> None:
    new_data, result = rewrite_packed(data, kernel, options)
    outputs = [Output(output, new_data)]
    if json_file is not None:
        entries = [describe(output, result)]
        outputs.append(json_output(json_file, TREE_SCHEMA, tree_report(output, entries)))
    write_all(outputs)
    console.say(summary_of_module(result, output))


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
        f"{output}: {len(result.sites)} sites rewritten{_out_of_line(result)}, {left} left native, "
        f"{result.added_len} bytes of padding added, {moved}{dropped}"
    )


def _packed_summary(packed: RewrittenBzImage, old_len: int, output: str) -> str:
    whose = "the kernel's own" if packed.boot_code is BootCodeChoice.KEEP else "vmipatch's"
    growth = 100 * len(packed.data) / old_len - 100
    again = (
        "which gives the original stream too" if packed.repeats else "the original's was another"
    )
    lines = [
        f"{output}: {len(packed.data)} bytes ({growth:+.2f} %), {whose} boot code",
        f"{output}: packed by {packed.recipe}, {again}",
        *(f"{output}: lost: {loss}" for loss in packed.losses),
    ]
    return "\n".join(lines)


def _packed_report(packed: RewrittenBzImage | None) -> dict[str, Any]:
    if packed is None:
        return {}
    return {
        "bzimage": {
            "output_len": len(packed.data),
            "boot_code": packed.boot_code.value,
            "compression": packed.recipe.compression.label,
            "recipe": str(packed.recipe),
            "recipe_repeats_original": packed.repeats,
            "lost": list(packed.losses),
        }
    }


def _out_of_line(result: RewrittenImage) -> str:
    count = result.treatments()[Treatment.TRAMPOLINE]
    return f" ({count} through trampolines)" if count else ""


def report(
    result: RewrittenImage, output: str, noted: Noted | None, is_recovered: bool
) -> dict[str, Any]:
    """The JSON report; `noted` is what comes back from the output."""
    manifest = result.manifest
    place = result.scan.image.symbols.place_of
    return {
        "kernel": result.scan.image.name,
        "output": output,
        "input": "recovered" if is_recovered else "linked",
        "mode": manifest.mode,
        "shift_len": manifest.shift_len,
        "padding": manifest.padding,
        "input_sha256": manifest.input_sha256,
        "sites": manifest.sites,
        "added_len": result.added_len,
        "added_instructions": result.added_instructions,
        "treatments": {each.value: result.treatments()[each] for each in Treatment},
        "dropped": list(manifest.dropped),
        "restore": noted
        and {"gives": noted.gives.label, "sha256": noted.sha256, "note_len": noted.note_len},
        "native": [
            {"address": site.va, "class": site.kind, "disposition": site.disposition,
             "reason": site.reason}
            for site in manifest.native
        ],
        "all_sites": [
            {"address": site.va, "place": place(site.va), "class": site.kind,
             "treatment": Treatment.of(site).value, "reason": site.reason.value}
            for site in result.scan.sites
        ],
    }  # fmt: skip
