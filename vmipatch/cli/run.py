# SPDX-License-Identifier: MIT
"""`vmipatch run`: a kernel on the emulated PC, its serial port on the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import click

from vmipatch.choices import Flavor, Mode
from vmipatch.cli.console import Console, json_option, json_output, pass_console, table
from vmipatch.cli.files import kernel_in, read_file
from vmipatch.cli.outputs import STDOUT, check_outputs, reported, write_all
from vmipatch.cli.terminal import HostTerminal
from vmipatch.emu.loader import Boot
from vmipatch.emu.machine import Machine, MachineOptions, Tracer
from vmipatch.emu.modes import build_machine
from vmipatch.emu.paravirt import ParavirtPrivilege
from vmipatch.emu.report import RunResult
from vmipatch.errors import ExitCode
from vmipatch.image.bzimage import is_bzimage
from vmipatch.image.protected_mode import hides_payload, protected_mode_code
from vmipatch.image.setup_header import SetupHeader
from vmipatch.image.symbols import SymbolTable
from vmipatch.rom import build_rom

SCHEMA = "vmipatch.run/1"
NS_PER_S = 1_000_000_000


@click.command("run", epilog="Example: vmipatch run --native vmlinux --initrd initramfs.cpio.gz")
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
    help="Whether CPUID shows the local APIC.",
)
@click.option("--limit", type=click.FloatRange(0), metavar="SECONDS", help="Virtual time to run.")
@click.option("--trace", "trace_file", type=click.Path(), help="Write what leaves the fast path.")
@json_option
@pass_console
def run_command(
    console: Console,
    kernel: str,
    mode: str | None,
    rom_file: str | None,
    initrd: str | None,
    append: str,
    memory: int,
    pae: bool,
    apic: bool,
    limit: float | None,
    trace_file: str | None,
    json_file: str | None,
) -> None:
    """Run KERNEL, a vmlinux or bzImage, on an emulated PC until it reboots or stops.

    The serial port is the terminal; Ctrl-A x ends the run. Exit code 1 if not the kernel ended it.
    Time in the machine is virtual: the same kernel without input does the same each time.
    """
    if mode is None:
        raise click.UsageError("say how: --native, --trap, --paravirt or --audit")
    check_outputs([kernel, rom_file, initrd], [trace_file, json_file])
    way = Mode(mode)
    rom = read_file(rom_file) if rom_file else build_rom(Flavor.PARAVIRT).data
    boot = _boot(kernel, append, read_file(initrd) if initrd else b"")
    symbols = boot.kernel.symbols  # if they are damaged, better said before the kernel runs
    limit_ns = None if limit is None else int(limit * NS_PER_S)
    options = MachineOptions(memory << 20, pae, apic, limit_ns)
    begun = time.perf_counter()
    with HostTerminal(to_stderr=json_file == STDOUT) as terminal, _trace_to(trace_file) as tracer:
        machine = build_machine(way, terminal, options, rom=rom, trace=tracer)
        result = machine.run(boot)
    console.say(f"\n{kernel}: {_summary(result)}, {time.perf_counter() - begun:.1f} s of real time")
    console.say(_counts(result))
    findings = _findings(machine, symbols)
    if findings:
        console.say(_finding_table(findings))
    if json_file is not None:
        report = {"kernel": kernel, "mode": mode, **result.as_json(), "findings": findings}
        report["memory_sha256"] = machine.memory.digest()
        write_all([json_output(json_file, SCHEMA, report)])
    silent = way is Mode.AUDIT and any(row["unprivileged"] for row in findings)
    if not result.ending.by_guest or silent:
        raise click.exceptions.Exit(ExitCode.FINDINGS)


def _boot(path: str, command_line: str, initrd: bytes) -> Boot:
    """The kernel in a file; a bzImage that does not tell where it is has to unpack itself."""
    data = read_file(path)
    if is_bzimage(data):
        header = SetupHeader.parse(data, path)
        if hides_payload(header):
            return Boot(protected_mode_code(data, header, path), command_line, initrd, header)
    return Boot(kernel_in(data, path), command_line, initrd)


def _summary(result: RunResult) -> str:
    details = f" ({result.details})" if result.details else ""
    seconds = f"{result.now_ns / NS_PER_S:.3f} s of virtual time"
    return f"{result.ending.value}{details}, {result.place}; {seconds}, {result.blocks} blocks"


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


def _findings(machine: Machine, symbols: SymbolTable) -> list[dict[str, Any]]:
    """The sensitive instructions that a paravirtual kernel executed itself, in address order."""
    if not isinstance(machine.privilege, ParavirtPrivilege):
        return []
    return [
        {
            "place": symbols.place_of(finding.va),
            "va": finding.va,
            "bytes": finding.code.hex(),
            "form": finding.name,
            "unprivileged": finding.is_unprivileged,
            "count": finding.count,
        }
        for finding in machine.privilege.audit.findings()
    ]


def _finding_table(findings: list[dict[str, Any]]) -> str:
    rows = [
        (row["count"], row["place"], row["bytes"], row["form"])
        for row in sorted(findings, key=lambda row: (-row["count"], row["va"]))
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
