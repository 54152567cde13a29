# SPDX-License-Identifier: MIT
"""`vmipatch rom`: the option ROM that answers the calls of a rewritten kernel."""

from __future__ import annotations

import hashlib
from typing import Any

import click

from vmipatch.cli.console import Console, json_option, json_output, pass_console
from vmipatch.cli.outputs import Output, check_outputs, write_all
from vmipatch.rom import Flavor, Rom, build_rom
from vmipatch.vmi.calls import API_MAJOR, API_MINOR

SCHEMA = "vmipatch.rom/1"


@click.command("rom", epilog="Example: vmipatch rom --flavor native -o vmi.rom")
@click.option(
    "--flavor",
    type=click.Choice([flavor.value for flavor in Flavor]),
    default=Flavor.PARAVIRT.value,
    show_default=True,
    help="paravirt: for `vmipatch run`; native: for any PC, each call is the instruction itself; "
    "trace: native, and each call writes its number to port 0xE9.",
)
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the ROM goes.")
@json_option
@pass_console
def rom_command(console: Console, flavor: str, output: str, json_file: str | None) -> None:
    """Build the VMI ROM; QEMU takes the native and trace ones with -option-rom."""
    check_outputs([], [output, json_file])
    rom = build_rom(Flavor(flavor))
    outputs = [Output(output, rom.data)]
    if json_file is not None:
        outputs.append(json_output(json_file, SCHEMA, _report(rom, flavor, output)))
    write_all(outputs)
    console.say(
        f"{output}: {len(rom.data)} bytes, VMI API {API_MAJOR}.{API_MINOR}, "
        f"{len(rom.entries)} calls, {flavor}"
    )


def _report(rom: Rom, flavor: str, output: str) -> dict[str, Any]:
    return {
        "output": output,
        "output_len": len(rom.data),
        "output_sha256": hashlib.sha256(rom.data).hexdigest(),
        "flavor": flavor,
        "api": f"{API_MAJOR}.{API_MINOR}",
        "calls": len(rom.entries),
    }
