# SPDX-License-Identifier: MIT
"""`vmipatch run`: a kernel on the emulated PC, its serial port on the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from vmipatch.choices import Mode
from vmipatch.cli.console import Console, OutputPath, json_option, json_output, pass_console
from vmipatch.cli.served import OneOfEach, require_extent, require_kind
from vmipatch.cli.steps import steps_shown
from vmipatch.cli.table import table
from vmipatch.emu.devices.ide import MOST_DISKS
from vmipatch.emu.schedule import DEFAULT_TURN_LEN, MIN_TURN_LEN, MOST_PROCESSORS
from vmipatch.errors import ExitCode, escaped
from vmipatch.files.outputs import STDOUT, check_outputs, reported, write_all
from vmipatch.steps import step

if TYPE_CHECKING:
    from vmipatch.emu.hooks import Tracer
    from vmipatch.emu.report import RunResult
    from vmipatch.files.running import Executed

NS_PER_S: Final = 1_000_000_000
_NO_BREAKPOINTS: Final = (
    "the guest set breakpoints in debug registers that this machine does not have, as those of "
    "ports (docs/guide.md)"
)


@click.command(
    "run",
    cls=OneOfEach,
    epilog="Example: vmipatch run --native vmlinux --initrd initramfs.cpio.gz",
    short_help="Run a kernel on an emulated PC or on the hypervisor.",
)
@click.argument("kernel", type=click.Path())
@click.option(
    "--native",
    "mode",
    flag_value=Mode.NATIVE.value,
    help="Give the kernel the CPU at ring 0, as bare hardware does.",
)
@click.option(
    "--trap",
    "mode",
    flag_value=Mode.TRAP.value,
    help="Run the kernel at ring 1 and emulate every sensitive instruction.",
)
@click.option(
    "--paravirt",
    "mode",
    flag_value=Mode.PARAVIRT.value,
    help="Run a kernel that knows VMI at ring 1, with a ROM: rewritten, or built with CONFIG_VMI.",
)
@click.option(
    "--audit",
    "mode",
    flag_value=Mode.AUDIT.value,
    help="As --paravirt, and list every sensitive instruction that is not a call of the ROM.",
)
@click.option("--rom", "rom_file", type=click.Path(), help="The ROM of --paravirt, if not our own.")
@click.option("--initrd", type=click.Path(), help="The initial file system.")
@click.option(
    "--module",
    "module_texts",
    multiple=True,
    metavar="'FILE ARGUMENTS'",
    help="Of a multiboot kernel: a file to put into memory for it, with its arguments; repeatable.",
)
@click.option(
    "--disk",
    "disk_files",
    multiple=True,
    type=click.Path(),
    help="An ATA disk's content, which the run does not change; twice for two disks.",
)
@click.option("--append", default="console=ttyS0", show_default=True, help="The command line.")
@click.option(
    "--memory",
    type=click.IntRange(4, 3072),
    default=256,
    show_default=True,
    metavar="MIB",
    help="How much memory the machine has.",
)
@click.option("--pae/--no-pae", default=True, show_default=True, help="Whether the CPU has PAE.")
@click.option(
    "--apic/--no-apic",
    default=False,
    show_default=True,
    help="Whether CPUID shows the local APIC; with several processors it always does.",
)
@click.option(
    "--cpus",
    type=click.IntRange(1, MOST_PROCESSORS),
    default=1,
    show_default=True,
    help="Processors; more than one come with an I/O APIC, an MP table and ACPI.",
)
@click.option(
    "--turn",
    "turn_len",
    type=click.IntRange(MIN_TURN_LEN),
    metavar="BYTES",
    help=f"Code that a processor executes before another one does.  [default: {DEFAULT_TURN_LEN}]",
)
@click.option("--limit", type=click.FloatRange(0), metavar="SECONDS", help="Virtual time to run.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Real time to run, by the wall clock.",
)
@click.option("--trace", "trace_file", type=OutputPath(), help="Write what leaves the fast path.")
@json_option
@pass_console
def run_command(
    console: Console,
    kernel: str,
    mode: str | None,
    rom_file: str | None,
    initrd: str | None,
    module_texts: tuple[str, ...],
    disk_files: tuple[str, ...],
    append: str,
    memory: int,
    pae: bool,
    apic: bool,
    cpus: int,
    turn_len: int | None,
    limit: float | None,
    timeout: float | None,
    trace_file: str | None,
    json_file: str | None,
) -> None:
    """Run KERNEL, a vmlinux, bzImage or multiboot kernel, on an emulated PC until it ends.

    The serial port is the terminal; Ctrl-A x ends the run. Exit code 1 if not the kernel ended it.
    Time in the machine is virtual: the same kernel without input does the same each time.
    """
    if mode is None:
        raise click.UsageError("say how: --native, --trap, --paravirt or --audit")
    from vmipatch.cli.terminal import HostTerminal
    from vmipatch.emu.multiboot import BootModule
    from vmipatch.emu.options import MachineOptions
    from vmipatch.files.file import read_file
    from vmipatch.files.open import open_kernel
    from vmipatch.files.running import SCHEMA

    way = Mode(mode)
    require_extent(click.get_current_context(), way)
    if turn_len is not None and cpus == 1:
        raise click.UsageError("--turn does not serve one processor: give --cpus as well")
    if trace_file == STDOUT:
        raise click.UsageError("--trace writes a file: standard output is the console's")
    module_files = [text.partition(" ")[0] for text in module_texts]
    check_outputs([kernel, rom_file, initrd, *module_files, *disk_files], [trace_file, json_file])
    if len(disk_files) > MOST_DISKS:
        raise click.UsageError(f"--disk serves {MOST_DISKS} disks")
    file = open_kernel(kernel)
    require_kind(click.get_current_context(), file.kind, kernel)
    rom = None if rom_file is None else read_file(rom_file)
    disk = b"" if initrd is None else read_file(initrd)
    modules = tuple(
        BootModule(read_file(path), text)
        for path, text in zip(module_files, module_texts, strict=True)
    )
    limit_ns = None if limit is None else int(limit * NS_PER_S)
    options = MachineOptions(
        memory << 20, pae, apic, limit_ns, timeout, cpus, turn_len or DEFAULT_TURN_LEN,
        disks=tuple(map(read_file, disk_files)),
    )  # fmt: skip
    begun = time.perf_counter()
    with (
        HostTerminal(to_stderr=json_file == STDOUT) as terminal,
        _trace_to(trace_file) as tracer,
        contextlib.nullcontext() if terminal.is_seen else steps_shown(console, kernel),
        step("running"),
    ):
        done = file.run(
            way, initrd=disk, append=append, options=options, rom=rom, terminal=terminal,
            trace=tracer, modules=modules,
        )  # fmt: skip
    seconds = time.perf_counter() - begun
    console.say(f"\n{escaped(kernel)}: {_summary(done.result)}, {seconds:.1f} s of real time")
    console.say(_counts(done.result))
    console.detail(_unicorn(done.result))
    if done.result.lacks_breakpoints:
        console.say(_NO_BREAKPOINTS)
    if done.executed:
        console.say(_executed(done.executed))
    if json_file is not None:
        write_all([json_output(json_file, SCHEMA, done.report())])
    silent = way is Mode.AUDIT and any(each.is_unprivileged for each in done.executed)
    if not done.result.ending.by_guest or silent:
        raise click.exceptions.Exit(ExitCode.FINDINGS)


def _summary(result: RunResult) -> str:
    details = f" ({result.details})" if result.details else ""
    seconds = f"{result.now_ns / NS_PER_S:.3f} s of virtual time"
    return f"{result.ending.value}{details}, {result.place}; {seconds}, {result.blocks} blocks"


def _unicorn(result: RunResult) -> str:
    if reason := result.plain_because:
        return f"the code of Unicorn was left as it is, and is slower: {reason}"
    return (
        "the code of Unicorn was changed in memory: fast stores, and no needless checks for stops"
    )


def _counts(result: RunResult) -> str:
    statistics = result.statistics
    rows = [(count, call.value) for call, count in statistics.calls.items() if count]
    rows += [
        (count, f"start, ended by: {exit_.value}") for exit_, count in statistics.exits.items()
    ]
    rows.sort(reverse=True)
    text = table(["count", "into and out of the CPU"], [*rows, (statistics.total, "all")])
    if not statistics.traps:
        return text
    traps = [(count, str(kind)) for kind, count in statistics.traps.most_common()]
    return f"{text}\n\n{table(['count', 'of the exceptions'], traps)}"


def _executed(found: Sequence[Executed]) -> str:
    rows = [
        (each.count, each.place, each.code.hex(), each.form)
        for each in sorted(found, key=lambda each: (-each.count, each.va))
    ]
    return "\n" + table(["count", "emulated after VMI_Init", "bytes", "form"], rows)


@contextlib.contextmanager
def _trace_to(path: str | None) -> Iterator[Tracer | None]:
    """A tracer that writes one line per event, `seconds CPL:EIP what`; None without a file."""
    if path is None:
        yield None
        return
    with reported(path):
        file = open(path, "w", encoding="ascii", errors="backslashreplace")  # noqa: SIM115

    def write(now_ns: int, what: str) -> None:
        with reported(path):
            file.write(f"{now_ns // NS_PER_S}.{now_ns % NS_PER_S:09d} {what}\n")

    try:
        yield write
    finally:
        with reported(path):
            file.close()
