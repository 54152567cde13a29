# SPDX-License-Identifier: MIT
"""`vmipatch rom`: the option ROM that answers the calls of a rewritten kernel."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import click

from vmipatch.choices import Flavor
from vmipatch.cli.console import Console, OutputPath, json_option, json_output, pass_console
from vmipatch.files.outputs import Output, check_outputs, write_all

if TYPE_CHECKING:
    from vmipatch.rom import Rom

SCHEMA = "vmipatch.rom/1"
PAGE_LEN = 0x1000


def _page_address(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """The linear address of a page, as Python writes numbers."""
    try:
        address = int(text, 0)
    except ValueError:
        address = -1
    if address not in range(0, 1 << 32, PAGE_LEN):
        raise click.BadParameter(f"{text} is not the address of a page, for example 0xfc000000")
    return address


@click.command(
    "rom",
    epilog="Example: vmipatch rom --flavor native -o vmi.rom",
    short_help="Build the VMI ROM.",
)
@click.option(
    "--flavor",
    type=click.Choice([flavor.value for flavor in Flavor]),
    default=Flavor.PARAVIRT.value,
    show_default=True,
    help="paravirt: for `vmipatch run`; native: for any PC, each call is the instruction itself; "
    "trace: native, and each call writes its number to port 0xE9.",
)
@click.option(
    "--virtual-top",
    callback=_page_address,
    default="0",
    show_default=True,
    metavar="ADDRESS",
    help="Have the kernel keep clear of linear addresses from ADDRESS on; 0: of none. "
    "Rewritten kernels cannot.",
)
@click.option("-o", "--output", required=True, type=OutputPath(), help="Where the ROM goes.")
@json_option
@pass_console
def rom_command(
    console: Console, flavor: str, virtual_top: int, output: str, json_file: str | None
) -> None:
    """Build the VMI ROM; QEMU takes the native and trace ones with -option-rom."""
    from vmipatch.rom import build_rom
    from vmipatch.vmi.calls import API_MAJOR, API_MINOR

    check_outputs([], [output, json_file])
    rom = build_rom(Flavor(flavor), virtual_top=virtual_top)
    outputs = [Output(output, rom.data)]
    if json_file is not None:
        outputs.append(json_output(json_file, SCHEMA, _report(rom, flavor, virtual_top, output)))
    write_all(outputs)
    console.say(
        f"{output}: {len(rom.data)} bytes, VMI API {API_MAJOR}.{API_MINOR}, "
        f"{len(rom.entries)} calls, {flavor}"
    )


def _report(rom: Rom, flavor: str, virtual_top: int, output: str) -> dict[str, Any]:
    from vmipatch.vmi.calls import API_MAJOR, API_MINOR

    return {
        "output": output,
        "output_len": len(rom.data),
        "output_sha256": hashlib.sha256(rom.data).hexdigest(),
        "flavor": flavor,
        "api": f"{API_MAJOR}.{API_MINOR}",
        "calls": len(rom.entries),
        "virtual_top": virtual_top,
    }
