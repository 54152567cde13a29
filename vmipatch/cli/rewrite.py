# SPDX-License-Identifier: MIT
"""`vmipatch rewrite`: a kernel with annotated VMI call sites."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from vmipatch.choices import BootCodeChoice, Padding
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
from vmipatch.files.outputs import Output, check_outputs, listed, write_all

if TYPE_CHECKING:
    from vmipatch.files.module import ModuleFile, RewrittenModuleFile
    from vmipatch.files.rewriting import RewrittenKernel
    from vmipatch.files.tree import ModuleTree
    from vmipatch.rewrite import RewriteOptions, RewrittenImage
    from vmipatch.rewrite.bzimage import RewrittenBzImage

AUTO = "auto"
EXECUTABLE = 0o755
"""The mode of a new vmlinux, as the linker leaves it."""


@click.command(
    "rewrite",
    epilog="Example: vmipatch rewrite vmlinux -o vmlinux.vmi",
    short_help="Rewrite a kernel, a module or a tree of modules for VMI.",
)
@click.argument("kernel", type=click.Path())
@click.option("-o", "--output", required=True, type=OutputPath(), help="Where the new kernel goes.")
@click.option(
    "--pad",
    type=click.Choice([AUTO, *(padding.value for padding in Padding)]),
    default=AUTO,
    show_default=True,
    help="Fill sites with redundant prefixes where they are ignored, or with nops everywhere; "
    "auto takes nops for a kernel whose kprobes know no prefixes (up to Linux 2.6.35).",
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
@click.option("--vmlinux", "twin_file", type=OutputPath(), help="Write the vmlinux of the output.")
@click.option("--system-map", "map_file", type=OutputPath(), help="Write a System.map.")
@click.option("--address-map", "moves_file", type=OutputPath(), help="Write old and new addresses.")
@click.option(
    "--keep-original",
    is_flag=True,
    help="Let `vmipatch restore` give back everything, debug sections too; the output holds a "
    "packed copy of what a note cannot tell.",
)
@click.option(
    "--start",
    metavar="SYMBOL",
    help="For a kernel that is not Linux: the function before which the runtime runs. What targets "
    "it is redirected.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="SYMBOL..SYMBOL",
    help="For a kernel that is not Linux: code between two symbols that it copies elsewhere, or "
    "that has 16 bits. It stays byte for byte; repeatable.",
)
@tree_option
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
    start: str | None,
    keep: tuple[str, ...],
    jobs: int | None,
    json_file: str | None,
) -> None:
    """Rewrite KERNEL for VMI: a vmlinux with relocations and symbols, a bzImage, or a module.

    Of a vmlinuz or ELF file without them, what can be proven is recovered and rewritten; of a
    directory, all modules in it. Runs as before on bare hardware; what was done and what was left
    native is in its manifest.
    """
    from vmipatch.files.module import ModuleFile
    from vmipatch.files.open import open_any, open_kernel
    from vmipatch.files.tree import ModuleTree
    from vmipatch.restore import Gives
    from vmipatch.rewrite import RewriteOptions

    context = click.get_current_context()
    options = RewriteOptions(None if pad == AUTO else Padding(pad), keep_original, start, keep)
    papers = [twin_file, map_file, moves_file, json_file]
    check_outputs([kernel, debug], papers if os.path.isdir(kernel) else [output, *papers])
    file = open_any(kernel, keep_debug=keep_original)
    require_kind(context, file.kind, kernel)
    if isinstance(file, ModuleTree):
        require_no_stream(output)
        _rewrite_tree(console, file, output, options, jobs, json_file)
        return
    if isinstance(file, ModuleFile):
        _rewrite_module(console, file, output, options, json_file)
        return
    twin = None if debug is None else open_kernel(debug, keep_debug=keep_original)
    check_outputs([*file.read_with, *(twin.read_with if twin else ())], [output, *papers])
    with steps_shown(console, kernel):
        done = file.rewrite(options, debug=twin, boot_code=BootCodeChoice(boot_code))
    outputs = [Output(output, done.data, 0o644 if done.packed else EXECUTABLE)]
    if twin_file is not None:
        outputs.append(Output(twin_file, done.vmlinux, EXECUTABLE))
    if map_file is not None:
        outputs.append(Output(map_file, done.system_map().encode()))
    if moves_file is not None:
        outputs.append(Output(moves_file, done.address_map().encode()))
    _write(outputs, done.report(output), json_file)
    console.say(summary(done, output))
    if done.packed is not None:
        console.say(packed_summary(done.packed, len(file.data), output))
    if done.noted is not None and done.noted.gives is not Gives.INPUT:
        line = f"{escaped(output)}: `vmipatch restore` gives back {done.noted.gives.text}"
        keeps_boot_code = done.packed is None or done.packed.boot_code is BootCodeChoice.KEEP
        console.say(line + " (with --keep-original all of it)" * keeps_boot_code)


def _write(outputs: list[Output], report: dict[str, Any], json_file: str | None) -> None:
    """All outputs of a kernel, and the report that names their hashes."""
    from vmipatch.files.rewriting import SCHEMA

    if json_file is not None:
        made = report | {"outputs": listed(outputs)}
        outputs = [*outputs, json_output(json_file, SCHEMA, made)]
    write_all(outputs)


def _rewrite_tree(
    console: Console,
    tree: ModuleTree,
    output: str,
    options: RewriteOptions,
    jobs: int | None,
    json_file: str | None,
) -> None:
    require_apart(tree.name, output, [json_file])
    with progress(console, tree.files_count) as watch:
        done = tree.rewrite(output, options, jobs=jobs, watch=watch)
    report_tree(console, output, done, json_file)


def _rewrite_module(
    console: Console,
    file: ModuleFile,
    output: str,
    options: RewriteOptions,
    json_file: str | None,
) -> None:
    from vmipatch.files.tree_report import SCHEMA

    done = file.rewrite(options)
    outputs = [Output(output, done.data)]
    if json_file is not None:
        outputs.append(json_output(json_file, SCHEMA, done.report(output)))
    write_all(outputs)
    console.say(summary_of_module(done, output))


def summary_of_module(done: RewrittenModuleFile, output: str) -> str:
    """The lines about a module: what was done, and what does not come back."""
    from vmipatch.restore import Gives

    entry, noted = done.entry(output), done.result.noted
    if not done.result.is_changed:
        return f"{escaped(output)}: nothing to rewrite, the module is the input's"
    signature = f", its signature of {entry.signature_len} bytes is gone: sign it again"
    line = (
        f"{escaped(output)}: {entry.sites} sites rewritten, {entry.left.count} left native, "
        f"{entry.added_len} bytes of padding added" + (signature if entry.signature_len else "")
    )
    if noted is None or noted.gives is Gives.INPUT:
        return line
    return f"{line}\n{output}: `vmipatch restore` gives back {noted.gives.text}"


def summary(done: RewrittenKernel, output: str) -> str:
    """The line about a kernel."""
    result = done.kernel
    manifest, placement = result.manifest, result.placement
    left = len(manifest.native)
    dropped = f", {len(manifest.dropped)} debug sections dropped" if manifest.dropped else ""
    moved = (
        f"everything after .text moved by {placement.shift_len:#x} bytes"
        if placement.shift_len
        else "no section after .text moved"
    )
    filled = " as nops" if manifest.padding == Padding.NOP.value else ""
    return (
        f"{escaped(output)}: {len(result.sites)} sites rewritten{_out_of_line(result)}, "
        f"{left} left native, {result.added_len} bytes of padding added{filled}, {moved}{dropped}"
    )


def _out_of_line(result: RewrittenImage) -> str:
    from vmipatch.rewrite import Treatment

    count = result.treatments()[Treatment.TRAMPOLINE]
    return f" ({count} through trampolines)" if count else ""


def packed_summary(packed: RewrittenBzImage, old_len: int, output: str) -> str:
    """The lines about a bzImage: length, packing, and one for each loss."""
    whose = "the kernel's own" if packed.boot_code is BootCodeChoice.KEEP else "vmipatch's"
    growth = 100 * len(packed.data) / old_len - 100
    again = (
        "which gives the original stream too" if packed.repeats else "the original's was another"
    )
    lines = [
        f"{escaped(output)}: {len(packed.data)} bytes ({growth:+.2f} %), {whose} boot code",
        f"{escaped(output)}: packed by {packed.recipe}, {again}",
        *(f"{escaped(output)}: lost: {loss}" for loss in packed.losses),
    ]
    return "\n".join(lines)
