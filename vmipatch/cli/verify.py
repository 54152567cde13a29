# SPDX-License-Identifier: MIT
"""`vmipatch verify`: whether a rewritten kernel still is the kernel it was made from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from vmipatch.choices import CAMPAIGN_STATES, LIMIT_NS, Extent
from vmipatch.cli.console import Console, OutputPath, json_option, pass_console
from vmipatch.cli.papers import Papers
from vmipatch.cli.served import OneOfEach, require_extent, require_kind
from vmipatch.cli.trees import conclude, jobs_option, progress, tree_option
from vmipatch.errors import ExitCode
from vmipatch.files.kind import KERNELS, require_pair
from vmipatch.files.outputs import STDOUT, check_outputs

if TYPE_CHECKING:
    from vmipatch.files.kernel import KernelFile
    from vmipatch.files.module import ModuleFile
    from vmipatch.files.tree import ModuleTree
    from vmipatch.files.verification import Verification, VerifyOptions

NS_PER_S: Final = 1_000_000_000
BY_COMPARISON: Final = (Extent.STATIC, Extent.LOCKSTEP)
"""What cannot be done without the original."""


@click.command(
    "verify",
    cls=OneOfEach,
    epilog="Example: vmipatch verify vmlinux.vmi --original vmlinux",
    short_help="Prove and boot a rewritten kernel: is it still the same?",
)
@click.argument("kernel", type=click.Path())
@click.option("--original", type=click.Path(), help="The file or directory that was rewritten.")
@click.option("--initrd", type=click.Path(), help="Boot with this file system, not with verify's.")
@click.option("--append", default="", help="More for the kernel's command line.")
@click.option(
    "--static",
    "extent",
    flag_value=Extent.STATIC.value,
    help="Only prove, instruction by instruction, that KERNEL is the original under an "
    "address map.",
)
@click.option(
    "--sites",
    "extent",
    flag_value=Extent.SITES.value,
    help="Only execute each shape of site, translated and native, in random states with faults.",
)
@click.option(
    "--states",
    type=click.IntRange(1),
    default=CAMPAIGN_STATES,
    show_default=True,
    metavar="N",
    help="Random states in which --sites executes each shape.",
)
@click.option(
    "--quick",
    "extent",
    flag_value=Extent.QUICK.value,
    help="The static check and one paravirtual boot.",
)
@click.option(
    "--full",
    "extent",
    flag_value=Extent.FULL.value,
    help="Every boot there is: trapped and unobserved paravirtual ones too.",
)
@click.option(
    "--lockstep",
    "extent",
    flag_value=Extent.LOCKSTEP.value,
    help="The static check, then the original, KERNEL and KERNEL on a ROM side by side, compared "
    "event by event.",
)
@click.option(
    "--require-coverage",
    "required",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Exit code 6 if fewer of a hundred sites were executed.",
)
@click.option(
    "--limit",
    type=click.FloatRange(0.001),
    default=LIMIT_NS / NS_PER_S,
    show_default=True,
    metavar="SECONDS",
    help="Virtual time for each boot.",
)
@click.option(
    "--certificate",
    "certificate_file",
    type=OutputPath(),
    help="Write what was proven, observed and left out, with hashes, as JSON; stable to the byte.",
)
@click.option(
    "--sarif", "sarif_file", type=OutputPath(), help="Write the static findings as SARIF."
)
@click.option("--report", "report_file", type=OutputPath(), help="Write a page of HTML.")
@tree_option
@jobs_option
@json_option
@pass_console
def verify_command(
    console: Console,
    kernel: str,
    original: str | None,
    initrd: str | None,
    append: str,
    extent: str | None,
    states: int,
    required: float | None,
    limit: float,
    certificate_file: str | None,
    sarif_file: str | None,
    report_file: str | None,
    jobs: int | None,
    json_file: str | None,
) -> None:
    """Check the rewritten KERNEL: proof from its bytes, boots in the emulator, comparison.

    Exit code 0 only if everything that was asked for holds. Without --original nothing is proven
    from the bytes; without --initrd the kernel runs a workload of verify's own. A module, or each
    module of a directory, is proven and not run.
    """
    from vmipatch.files.file import read_file
    from vmipatch.files.kernel import KernelFile
    from vmipatch.files.module import ModuleFile
    from vmipatch.files.open import open_any
    from vmipatch.files.tree import ModuleTree
    from vmipatch.files.verification import VerifyOptions

    context = click.get_current_context()
    wanted = Extent(extent or Extent.NORMAL.value)
    require_extent(context, wanted)
    if wanted in BY_COMPARISON and original is None:
        raise click.UsageError(f"--{wanted.value} compares with the kernel that --original names")
    papers = Papers(json_file, certificate_file, sarif_file, report_file)
    check_outputs([kernel, original, initrd], papers.files)
    file = open_any(kernel, keep_debug=False)
    require_kind(context, file.kind, kernel)
    if file.kind not in KERNELS and original is None:
        raise click.UsageError(f"{kernel} is compared with what --original names: give both")
    was = None
    if original is not None:
        was = open_any(original, keep_debug=False)
        require_pair(file.kind, was.kind, kernel)
    if isinstance(file, ModuleTree) and isinstance(was, ModuleTree):
        _verify_tree(console, file, was, jobs, papers)
    elif isinstance(file, ModuleFile) and isinstance(was, ModuleFile):
        _verify_module(console, file, was, papers)
    elif isinstance(file, KernelFile) and (was is None or isinstance(was, KernelFile)):
        options = VerifyOptions(
            extent=wanted,
            initrd=None if initrd is None else read_file(initrd),
            append=append,
            required_percent=required,
            limit_ns=int(limit * NS_PER_S),
            states=states if wanted is Extent.SITES else None,
        )
        check_outputs([*file.read_with, *(was.read_with if was else ())], papers.files)
        _verify_kernel(console, file, was, options, papers)


def _verify_kernel(
    console: Console,
    file: KernelFile,
    original: KernelFile | None,
    options: VerifyOptions,
    papers: Papers,
) -> None:
    from vmipatch.cli.progress import progress_on
    from vmipatch.cli.verdict_text import summary
    from vmipatch.verify.certificate import SCHEMA as CERTIFICATE_SCHEMA
    from vmipatch.verify.report_json import SCHEMA
    from vmipatch.verify.verdict import Statement

    watcher = None if console.verbosity < 0 else progress_on(sys.stderr)
    done = file.verify(original, options, watcher)
    papers.write(done, SCHEMA, CERTIFICATE_SCHEMA)
    if STDOUT not in papers.files:
        console.data(summary(done.verdict))
    if done.verdict.statement is Statement.BELOW:
        raise click.exceptions.Exit(ExitCode.BELOW)
    _end(holds=done.holds)


def _verify_module(
    console: Console, file: ModuleFile, original: ModuleFile, papers: Papers
) -> None:
    from vmipatch.files.tree_report import SCHEMA
    from vmipatch.verify.certificate import SCHEMA as CERTIFICATE_SCHEMA

    done = file.verify(original)
    papers.write(done, SCHEMA, CERTIFICATE_SCHEMA)
    if STDOUT not in papers.files:
        console.data(_summary_of_module(done))
    _end(holds=done.holds)


def _verify_tree(
    console: Console, tree: ModuleTree, original: ModuleTree, jobs: int | None, papers: Papers
) -> None:
    from vmipatch.files.tree_report import SCHEMA
    from vmipatch.files.tree_verification import CERTIFICATE_SCHEMA

    with progress(console, len(original.modules)) as watch:
        done = tree.verify(original, jobs=jobs, watch=watch)
    papers.write(done, SCHEMA, CERTIFICATE_SCHEMA)
    conclude(console, tree.name, done.entries, ExitCode.FINDINGS)


def _summary_of_module(done: Verification) -> str:
    static = done.verdict.evidence.static
    assert static is not None, "a module is compared"
    counts = static.counts
    held = (
        f"holds, {counts.get('instructions', 0)} instructions, {counts.get('records', 0)} records"
    )
    line = f"{done.kernel.name}: static check {held if done.holds else 'fails'}"
    return "\n".join([*map(str, static.findings), line])


def _end(*, holds: bool) -> None:
    if not holds:
        raise click.exceptions.Exit(ExitCode.FINDINGS)
