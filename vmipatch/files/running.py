# SPDX-License-Identifier: MIT
"""What came of a run of a kernel on the emulated PC?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.hooks import Hooks, Tracer
from vmipatch.emu.loader import Boot
from vmipatch.emu.machine import Machine
from vmipatch.emu.multiboot import BootModule
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import RunResult
from vmipatch.emu.terminal import Silence, Terminal
from vmipatch.errors import NotServed
from vmipatch.files.kind import Kind
from vmipatch.image.annotated import is_annotated_13
from vmipatch.image.elf import ElfImage
from vmipatch.image.protected_mode import hides_payload, protected_mode_code
from vmipatch.image.setup_header import SetupHeader
from vmipatch.image.symbols import SymbolTable
from vmipatch.names import base_name
from vmipatch.rom import build_rom, build_rom_13

if TYPE_CHECKING:
    from vmipatch.files.kernel import KernelFile

SCHEMA: Final = "vmipatch.run/1"


@dataclass(frozen=True, slots=True)
class Executed:
    """A sensitive instruction that a paravirtual kernel executed itself."""

    place: str
    """Function and offset."""
    va: int
    code: bytes
    form: str
    """As the manual writes it."""
    is_unprivileged: bool
    """Whether it would have been silently wrong on hardware."""
    count: int


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended, and what was seen in it."""

    kernel: str
    """The name of the file."""
    mode: Mode
    """The privilege that the kernel had."""
    result: RunResult = field(hash=False)
    """How and when the machine ended, and what was counted."""
    executed: tuple[Executed, ...]
    """In address order; empty but in modes with a ROM."""
    memory_sha256: str
    """Of the guest's memory at the end."""
    console: str | None = field(repr=False)
    """The kernel's output to its serial line; None if a terminal of the caller's heard it."""

    def report(self) -> dict[str, Any]:
        """The JSON report (docs/schemas/run-1.json)."""
        findings = [
            {
                "place": each.place,
                "va": each.va,
                "bytes": each.code.hex(),
                "form": each.form,
                "unprivileged": each.is_unprivileged,
                "count": each.count,
            }
            for each in self.executed
        ]
        return {
            "kernel": base_name(self.kernel),
            "mode": self.mode.value,
            **self.result.as_json(),
            "findings": findings,
            "memory_sha256": self.memory_sha256,
        }


def run_kernel(
    file: KernelFile,
    mode: Mode,
    initrd: bytes,
    append: str,
    options: MachineOptions | None,
    rom: bytes | None,
    terminal: Terminal | None,
    trace: Tracer | None,
    modules: tuple[BootModule, ...] = (),
) -> Run:
    """As KernelFile.run says."""
    boot = replace(_boot(file, append, initrd), modules=modules)
    if rom is None:
        rom = _rom_for(boot.kernel)
    if modules and not boot.is_multiboot:
        raise NotServed(
            "--module serves multiboot kernels alone, and this is not one",
            file=file.name,
            hint="give Linux its initial file system by --initrd",
        )
    symbols = boot.kernel.symbols  # if they are damaged, better said before the kernel runs
    silence = Silence()
    hooks = () if trace is None else (Hooks(on_trace=trace),)
    options = replace(options or MachineOptions(), display=boot.is_multiboot)
    spec = MachineSpec(mode, options, rom, hooks=hooks)
    machine = build_machine(spec, terminal or silence)
    result = machine.run(boot)
    console = silence.heard.decode("utf-8", "replace") if terminal is None else None
    digest = machine.memory.digest()
    return Run(file.name, mode, result, _executed(machine, symbols), digest, console)


def _rom_for(kernel: ElfImage) -> bytes:
    """The ROM of the API that the kernel's call sites are for; of API 3 if it has none."""
    if is_annotated_13(kernel):
        return build_rom_13(Flavor.PARAVIRT).data
    return build_rom(Flavor.PARAVIRT).data


def _boot(file: KernelFile, command_line: str, initrd: bytes) -> Boot:
    """The kernel of a file; a bzImage that does not tell where it is has to unpack itself."""
    if file.kind is Kind.BZIMAGE:
        header = SetupHeader.parse(file.data, file.name)
        if hides_payload(header):
            code = protected_mode_code(file.data, header, file.name)
            return Boot(code, command_line, initrd, header)
    return Boot(file.image, command_line, initrd)


def _executed(machine: Machine, symbols: SymbolTable) -> tuple[Executed, ...]:
    return tuple(
        Executed(
            symbols.place_of(each.va), each.va, each.code, each.name, each.is_unprivileged,
            each.count,
        )
        for each in machine.privilege.findings()
    )  # fmt: skip
