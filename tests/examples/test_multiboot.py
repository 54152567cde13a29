# SPDX-License-Identifier: MIT
"""Is the example multiboot kernel what a foreign kernel is, and does each of its tasks end?"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from examples.multiboot import build
from examples.multiboot.build import KEEP, LINK_VA, START, link_kernel
from tests.cli.commands import invoke, validated
from tests.support.absent import program
from tests.support.roms import rom_arguments, trace_arguments
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.files.open import open_kernel
from vmipatch.image.elf import ElfImage
from vmipatch.image.multiboot import multiboot_headers
from vmipatch.rom import build_rom
from vmipatch.vmi.calls import VmiCall

ROUNDS, TASKS = 24, 4
LIMIT_NS = 5_000_000_000


def report(cpus: int) -> list[str]:
    """Each task adds its number and what is left of its rounds, yields, executes cli, asks for its
    processor, executes hlt, and exits.
    """
    sums = [sum(left + task for left in range(1, ROUNDS + 1)) for task in range(TASKS)]
    lines = [f"processors: {cpus}"]
    for task, added in enumerate(sums):
        lines.append(f"task {task:x}: calls {2 * ROUNDS + 2:x} sum {added:x}")
        lines.append(f"  faults 2 processors {1 << task % cpus:x}")
    return [*lines, f"tasks: total {sum(sums):x}", "GUEST done"]


@cache
def image() -> ElfImage:
    return ElfImage.parse(build(), "multiboot")


def test_building_twice_gives_the_same_bytes() -> None:
    assert build() == image().data


def test_both_headers_are_where_loaders_look_and_name_no_addresses() -> None:
    headers = multiboot_headers(image().data)
    assert [header.version for header in headers] == [1, 2]
    text = image().section_by_name[".text"]
    for header in headers:
        assert text.off <= header.off < text.off + text.size
        assert (header.addresses, header.entries) == (None, ())


def test_entry_is_physical_and_so_is_a_symbol_of_code() -> None:
    symbols, text = image().symbols.by_name, image().section_by_name[".text"]
    assert text.va == LINK_VA
    start, entry = symbols["_start"], symbols["entry"]
    assert image().entry == start.va == entry.va - 0xC0000000
    assert start.section == entry.section == text.index


def test_no_name_is_one_of_those_that_vmipatch_knows_linux_by() -> None:
    names = {symbol.name for symbol in link_kernel().symbols}
    assert not names & {"start_kernel", "startup_32", "irq_entries_start", "_text", "_stext"}
    assert set(image().section_by_name) & {".init.text", "__ex_table"} == set()


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP], ids=lambda mode: mode.value)
def test_all_tasks_end(mode: Mode, cpus: int) -> None:
    options = MachineOptions(limit_ns=LIMIT_NS, cpus=cpus)
    run = open_kernel(build()).run(mode, options=options)
    assert run.result.ending is Ending.RESET
    assert run.console is not None
    assert run.console.splitlines()[1:] == report(cpus)


@pytest.fixture(scope="module")
def rewritten(multiboot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel, rewritten by the command."""
    path = tmp_path_factory.mktemp("rewritten") / "kernel.vmi"
    done = invoke("rewrite", multiboot, "-o", path, "--start", START, "--keep", KEEP)
    assert done.returncode == 0, done.stderr
    return path


def test_scan_finds_every_site_of_code_that_it_decodes(multiboot: Path) -> None:
    report = validated(invoke("scan", multiboot, "--json", "-").stdout, "scan-2")
    assert report["evidence"]["sites_unknown"] == 0
    found = Counter(site["class"] for site in report["sites"] if site["section"] == ".text")
    assert found["str"] == 1 and found["iret"] == 2 and found["mov to cr"] >= 4


def test_verify_proves_and_boots_it_with_two_processors(
    multiboot: Path, rewritten: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    done = invoke(
        "verify", rewritten, "--original", multiboot, "--cpus", "2", "--json", report
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    content = json.loads(report.read_text())
    assert content["statement"] == "proven-and-booted"
    calls = (2 * ROUNDS + 2) * TASKS
    assert f"{calls} system calls of {TASKS} processes on 2 processors" in done.stdout


def test_three_machines_do_the_same_event_by_event(multiboot: Path, rewritten: Path) -> None:
    done = invoke("verify", rewritten, "--original", multiboot, "--lockstep")
    assert done.returncode == 0, done.stdout
    assert f"{(2 * ROUNDS + 2) * TASKS} system calls" in done.stdout


def test_restore_gives_the_kernel_back(multiboot: Path, rewritten: Path, tmp_path: Path) -> None:
    path = tmp_path / "restored"
    assert invoke("restore", rewritten, "-o", path).returncode == 0
    assert path.read_bytes() == multiboot.read_bytes()


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.PARAVIRT, Mode.AUDIT], ids=lambda m: m.value)
def test_all_tasks_end_in_the_rewritten_kernel(rewritten: Path, mode: Mode, cpus: int) -> None:
    options = MachineOptions(limit_ns=LIMIT_NS, cpus=cpus)
    run = open_kernel(rewritten).run(mode, options=options)
    assert run.result.ending is Ending.RESET
    assert run.console is not None and run.console.splitlines()[1:] == report(cpus)
    assert not [each for each in run.executed if each.is_unprivileged]
    if mode is not Mode.NATIVE:
        assert run.result.statistics.traps[ExitKind.HYPERCALL_INIT] == 1
        assert ExitKind.TABLE_STORE not in run.result.statistics.traps, "str is a call"


@pytest.mark.qemu
@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("flavor", [None, Flavor.NATIVE], ids=["no ROM", "ROM"])
def test_all_tasks_end_in_the_rewritten_kernel_on_a_pc(
    rewritten: Path, tmp_path: Path, cpus: int, flavor: Flavor | None
) -> None:
    """With two processors, a ROM between them: every site of the kernel becomes its call."""
    rom = () if flavor is None else rom_arguments(build_rom(flavor).data, tmp_path)
    assert on_pc(rewritten, cpus, *rom) == report(cpus)


@pytest.mark.qemu
def test_rom_is_called_on_a_pc(rewritten: Path, tmp_path: Path) -> None:
    """A ROM that traces its calls: each task's system calls are answered by loads of CR3."""
    trace = tmp_path / "trace"
    rom = rom_arguments(build_rom(Flavor.TRACE).data, tmp_path)
    assert on_pc(rewritten, 1, *rom, *trace_arguments(trace)) == report(1)
    made = Counter(trace.read_bytes())
    assert made[VmiCall.SET_CR3] >= (2 * ROUNDS + 2) * TASKS
    assert made[VmiCall.GET_TR] >= 2 * made[VmiCall.SET_CR3]


@pytest.mark.qemu
@pytest.mark.parametrize("cpus", [1, 2])
def test_all_tasks_end_on_a_pc(tmp_path: Path, cpus: int) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(build())
    assert on_pc(kernel, cpus) == report(cpus)


def on_pc(kernel: Path, cpus: int, *arguments: str) -> list[str]:
    """The kernel's lines after its banner, in QEMU."""
    command = [program("qemu-system-i386"), "-accel", "tcg,thread=single", "-nographic"]
    command += ["-no-reboot", "-nic", "none", "-m", "64", "-smp", f"{cpus},sockets={cpus}"]
    done = subprocess.run(
        [*command, *arguments, "-kernel", str(kernel)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.decode("ascii", "replace").replace("\r", "").splitlines()
    banner = next(i for i, line in enumerate(lines) if "MULTIBOOT kernel" in line)
    return lines[banner + 1 :]
