# SPDX-License-Identifier: MIT
"""What does `make bench` measure? Speed, the emulator, native cost, modules; of some kernels."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks import emulator_speed, tree_speed
from benchmarks.counting import SHIFT, CountingMachine, build_plugin
from benchmarks.emulator_speed import BootCost
from benchmarks.native_runs import KernelCost
from benchmarks.native_runs import measure as measure_native
from benchmarks.proof_cost import ProofCost, proof_lines
from benchmarks.proof_cost import measure as measure_proofs
from benchmarks.report import (
    Speed,
    emulator_lines,
    native_lines,
    speed_lines,
    stage_lines,
    to_json,
    tree_lines,
)
from benchmarks.rewrite_speed import measure as measure_speed
from benchmarks.rewrite_stages import StageCost, measure_stages
from benchmarks.tree_speed import TreeCosts
from tests.support import initramfs, kernels
from vmipatch.errors import VmipatchError

WORKLOAD = "workload.sh"


@click.command()
@click.argument("names", nargs=-1, metavar="[KERNEL]...", type=click.Choice(list(kernels.RECIPES)))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1), help="Runs of each.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures.")
@click.option(
    "--initrd",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Initial file system to run instead of the tests' {WORKLOAD} for native cost, "
    f"and {emulator_speed.WORKLOAD} in the emulator.",
)
@click.option(
    "--shift",
    default=SHIFT,
    show_default=True,
    type=click.IntRange(0, 10),
    help="An instruction takes 2**SHIFT ns of the guest's time.",
)
@click.option("--no-speed", is_flag=True, help="Leave out time and memory.")
@click.option("--no-proof", is_flag=True, help="Leave out the proofs of Debian's kernels.")
@click.option("--no-stages", is_flag=True, help="Leave out the stages of rewriting.")
@click.option("--no-emulator", is_flag=True, help="Leave out the emulator.")
@click.option(
    "--boot",
    "booted",
    multiple=True,
    type=click.Choice(list(emulator_speed.KERNELS)),
    help="Kernel to boot in the emulator; may be repeated. Default: all that are here.",
)
@click.option(
    "--way",
    "ways",
    multiple=True,
    default=emulator_speed.WAYS,
    type=click.Choice(emulator_speed.WAYS),
    help="Way to boot it, beside QEMU and native; may be repeated. Default: all.",
)
@click.option("--no-native", is_flag=True, help="Leave out the native cost.")
@click.option(
    "--no-modules",
    is_flag=True,
    help=f"Leave out the modules of {tree_speed.KERNEL}, which are measured where they are.",
)
def main(
    names: tuple[str, ...],
    runs: int,
    json_file: Path | None,
    initrd: Path | None,
    shift: int,
    no_speed: bool,
    no_proof: bool,
    no_stages: bool,
    no_emulator: bool,
    booted: tuple[str, ...],
    ways: tuple[str, ...],
    no_native: bool,
    no_modules: bool,
) -> None:
    """Measure the test kernels named (default: all)."""
    speeds: list[Speed] = []
    proofs: list[ProofCost] = []
    stages: list[StageCost] = []
    boots: list[BootCost] = []
    costs: list[KernelCost] = []
    tree: TreeCosts | None = None
    chosen = names or tuple(kernels.RECIPES)
    try:
        if not no_speed:
            speeds = [Speed(name, tuple(measure_speed(_vmlinux(name), runs))) for name in chosen]
            _say(speed_lines(speeds))
        if not no_proof:
            proofs = measure_proofs(runs)
            _say(proof_lines(proofs))
        if not no_stages:
            stages = [cost for name in chosen for cost in _stages(name)]
            # Debian's kernels are fetched by `make test-distro`; without them there are fewer.
            stages += [] if names else [c for n in kernels.DISTRO_FLAVOURS for c in _stages(n)]
            _say(stage_lines(stages))
        if not no_emulator:
            wanted = booted or (*chosen, *(() if names else kernels.DISTRO_FLAVOURS))
            for name in emulator_speed.KERNELS:
                if name in wanted and (vmlinux := _found(name)) is not None:
                    boots += _boots(name, vmlinux, runs, initrd, ways)
            _say(emulator_lines(boots))
        if not no_native:
            costs = _native_costs(chosen, runs, initrd, shift)
            _say(native_lines(costs))
        if not no_modules:
            tree = _modules()
    except VmipatchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    if json_file is not None:
        json_file.write_text(
            to_json(speeds, proofs, stages, costs, boots, tree, runs), encoding="utf-8"
        )


def _modules() -> TreeCosts | None:
    name = tree_speed.KERNEL
    kernel = kernels.find_distro(name)
    if kernel is None:
        click.echo(f"{name} is not here, nor are its modules: `make test-distro` fetches it\n")
        return None
    costs = tree_speed.measure(name, kernel.modules)
    _say(tree_lines(costs))
    return costs


def _boots(
    name: str, vmlinux: Path, runs: int, initrd: Path | None, ways: tuple[str, ...]
) -> list[BootCost]:
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        archive = initrd or _archive(emulator_speed.WORKLOAD, scratch)
        return emulator_speed.measure(name, vmlinux.read_bytes(), archive, runs, scratch, ways)


def _found(name: str) -> Path | None:
    """The vmlinux of a kernel, None if it is a distribution's not fetched."""
    if name not in kernels.DISTRO_FLAVOURS:
        return _vmlinux(name)
    kernel = kernels.find_distro(name)
    return None if kernel is None else kernel.vmlinux


def _native_costs(
    names: tuple[str, ...], runs: int, initrd: Path | None, shift: int
) -> list[KernelCost]:
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        machine = CountingMachine(
            build_plugin(scratch), initrd or _archive(WORKLOAD, scratch), shift
        )
        return [measure_native(name, _vmlinux(name).read_bytes(), machine, runs) for name in names]


def _stages(name: str) -> Iterator[StageCost]:
    """Cost of rewriting the files of a kernel; nothing if it is a distribution's not fetched."""
    if name not in kernels.DISTRO_FLAVOURS:
        vmlinux = _vmlinux(name)
        yield measure_stages(name, vmlinux)
        yield measure_stages(f"{name} bzImage", vmlinux.with_name("bzImage"), vmlinux)
    elif kernel := kernels.find_distro(name):
        flavour = kernels.DISTRO_FLAVOURS[name]
        yield measure_stages(f"{flavour} vmlinux", kernel.vmlinux)
        yield measure_stages(f"{flavour} vmlinuz", kernel.vmlinuz, kernel.vmlinux)


def _vmlinux(name: str) -> Path:
    built = kernels.find(name)
    if built is None:
        raise click.UsageError(f"the test kernel {name} is missing: run `make kernels`")
    return built.vmlinux


def _archive(script: str, scratch: Path) -> Path:
    """The initial file system that runs one of the tests' scripts."""
    busybox = kernels.find_busybox()
    if busybox is None:
        raise click.UsageError("busybox is missing: run `make kernels`")
    archive = scratch / "initramfs.cpio"
    archive.write_bytes(initramfs.build(busybox, script))
    return archive


def _say(lines: Iterator[str]) -> None:
    for line in lines:
        click.echo(line)


if __name__ == "__main__":
    main()
