# SPDX-License-Identifier: MIT
"""`vmipatch verify`: whether a rewritten kernel still is the kernel it was made from."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Final

import click

from vmipatch.choices import CAMPAIGN_STATES, LIMIT_NS, MOST_VARIED, TIMEOUT_S, Extent
from vmipatch.cli.console import Console, OutputPath, json_option, pass_console
from vmipatch.cli.papers import IN_TOTO, JSON, Papers
from vmipatch.cli.served import OneOfEach, require_extent, require_kind
from vmipatch.cli.trees import conclude, jobs_option, progress, tree_option
from vmipatch.emu.schedule import MOST_PROCESSORS
from vmipatch.errors import ExitCode, escaped
from vmipatch.files.kind import KERNELS, require_pair
from vmipatch.files.outputs import STDOUT, check_outputs

if TYPE_CHECKING:
    from vmipatch.files.kernel import KernelFile
    from vmipatch.files.module import ModuleFile
    from vmipatch.files.tree import ModuleTree
    from vmipatch.files.verification import Verification, VerifyOptions

NS_PER_S: Final = 1_000_000_000
BY_COMPARISON: Final = (Extent.STATIC, Extent.LOCKSTEP)
"""Extents that cannot be done without the original."""


@click.command(
    "verify",
    cls=OneOfEach,
    epilog="Example: vmipatch verify vmlinux.vmi --original vmlinux",
    short_help="Prove and boot a rewritten kernel: is it still the same?",
)
@click.argument("kernel", type=click.Path())
@click.option("--original", type=click.Path(), help="The file or directory that was rewritten.")
@click.option(
    "--debug",
    type=click.Path(),
    help="The vmlinux of the original bzImage with symbols and relocations, as `rewrite` had it.",
)
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
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="Real time for each boot, by the wall clock.",
)
@click.option(
    "--vary",
    type=click.IntRange(1, MOST_VARIED),
    metavar="N",
    help="Boot the original N times more, with its timer shifted: what varies between its own "
    "boots is listed, and compared by what stays.",
)
@click.option(
    "--cpus",
    type=click.IntRange(1, MOST_PROCESSORS),
    default=None,
    metavar="N",
    help="Processors of the boots. Without it, two for an SMP kernel and one for any other; with "
    "one, command line and machine have no APIC and no ACPI.",
)
@click.option(
    "--races",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="Boot KERNEL N times more on a ROM, its processors in turns of other lengths.",
)
@click.option(
    "--xen",
    "hypervisor",
    type=click.Path(),
    metavar="FILE",
    help="Boot KERNEL as domain 0 of this Xen, too, in QEMU (docs/xen.md).",
)
@click.option(
    "--certificate",
    "certificate_file",
    type=OutputPath(),
    help="Write what was proven, observed and left out, with hashes, as JSON; stable to the byte.",
)
@click.option(
    "--certificate-format",
    type=click.Choice([JSON, IN_TOTO]),
    default=JSON,
    show_default=True,
    help="The certificate itself, or an in-toto Statement with it, ready to be signed.",
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
    debug: str | None,
    initrd: str | None,
    append: str,
    extent: str | None,
    states: int,
    required: float | None,
    limit: float,
    timeout: float,
    vary: int | None,
    cpus: int | None,
    races: int | None,
    hypervisor: str | None,
    certificate_file: str | None,
    certificate_format: str,
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
    from vmipatch.files.open import open_any, open_kernel
    from vmipatch.files.tree import ModuleTree
    from vmipatch.files.verification import VerifyOptions, processors_of

    context = click.get_current_context()
    wanted = Extent(extent or Extent.NORMAL.value)
    require_extent(context, wanted)
    if wanted in BY_COMPARISON and original is None:
        raise click.UsageError(f"--{wanted.value} compares with the kernel that --original names")
    if certificate_format == IN_TOTO and certificate_file is None:
        raise click.UsageError("--certificate-format is the form of what --certificate writes")
    if vary is not None and original is None:
        raise click.UsageError("--vary boots the kernel that --original names")
    if hypervisor is not None and initrd is not None:
        raise click.UsageError("--xen runs verify's own workload: leave --initrd out")
    papers = Papers(json_file, certificate_file, sarif_file, report_file, certificate_format)
    check_outputs([kernel, original, debug, initrd, hypervisor], papers.files)
    file = open_any(kernel, keep_debug=False)
    require_kind(context, file.kind, kernel)
    if file.kind not in KERNELS and original is None:
        raise click.UsageError(f"{kernel} is compared with what --original names: give both")
    if debug is not None and original is None:
        raise click.UsageError("--debug belongs to the bzImage that --original names: give both")
    was = None
    if original is not None:
        was = open_any(original, keep_debug=False)
        require_pair(file.kind, was.kind, kernel)
    if isinstance(file, ModuleTree) and isinstance(was, ModuleTree):
        _verify_tree(console, file, was, jobs, papers)
    elif isinstance(file, ModuleFile) and isinstance(was, ModuleFile):
        _verify_module(console, file, was, papers)
    elif isinstance(file, KernelFile) and (was is None or isinstance(was, KernelFile)):
        if races is not None and processors_of(file, wanted, cpus) == 1:
            raise click.UsageError("--races does not serve one processor: give --cpus as well")
        options = VerifyOptions(
            extent=wanted,
            initrd=None if initrd is None else read_file(initrd),
            append=append,
            required_percent=required,
            limit_ns=int(limit * NS_PER_S),
            timeout_s=timeout,
            vary=vary or 0,
            cpus=cpus,
            races=races or 0,
            xen=hypervisor,
            states=states if wanted is Extent.SITES else None,
        )
        twin = None if debug is None else open_kernel(debug, keep_debug=False)
        beside = [path for each in (file, was, twin) if each for path in each.read_with]
        check_outputs(beside, papers.files)
        _verify_kernel(console, file, was, options, papers, twin)


def _verify_kernel(
    console: Console,
    file: KernelFile,
    original: KernelFile | None,
    options: VerifyOptions,
    papers: Papers,
    debug: KernelFile | None,
) -> None:
    from vmipatch.cli.colour import coloured, wants_colour
    from vmipatch.cli.progress import progress_on
    from vmipatch.cli.verdict_text import summary
    from vmipatch.verify.certificate import SCHEMA as CERTIFICATE_SCHEMA
    from vmipatch.verify.report_json import SCHEMA
    from vmipatch.verify.verdict import Statement

    watcher = None if console.verbosity < 0 else progress_on(sys.stderr)
    with contextlib.nullcontext() if watcher is None else watcher.shown():
        done = file.verify(original, options, watcher, debug=debug)
    papers.write(done, SCHEMA, CERTIFICATE_SCHEMA)
    if STDOUT not in papers.files:
        console.data(summary(done.verdict), coloured if wants_colour() else str)
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
    name = escaped(done.kernel.name)
    line = f"{name}: static check {held if done.holds else 'fails'}"
    signed = [f"{name}: {escaped(str(signature))}" for signature in static.signatures]
    return "\n".join([*map(str, static.findings), *signed, line])


def _end(*, holds: bool) -> None:
    if not holds:
        raise click.exceptions.Exit(ExitCode.FINDINGS)
