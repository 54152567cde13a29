# SPDX-License-Identifier: MIT
"""`vmipatch rom`: the option ROM that answers the calls of a rewritten kernel."""

from __future__ import annotations

import click

from vmipatch.cli.console import Console, pass_console
from vmipatch.cli.files import write_file
from vmipatch.rom import Flavor, build_rom
from vmipatch.vmi.calls import API_MAJOR, API_MINOR


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
@pass_console
def rom_command(console: Console, flavor: str, output: str) -> None:
    """Build the VMI ROM; QEMU takes the native and trace ones with -option-rom."""
    rom = build_rom(Flavor(flavor))
    write_file(output, rom.data)
    console.say(
        f"{output}: {len(rom.data)} bytes, VMI API {API_MAJOR}.{API_MINOR}, "
        f"{len(rom.entries)} calls, {flavor}"
    )
