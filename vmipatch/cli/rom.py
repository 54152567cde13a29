# SPDX-License-Identifier: MIT
"""`vmipatch rom`: the option ROM that answers the calls of a rewritten kernel."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import click

from vmipatch.choices import Api, Flavor
from vmipatch.cli.console import Console, OutputPath, json_option, json_output, pass_console
from vmipatch.errors import escaped
from vmipatch.files.outputs import Output, check_outputs, write_all
from vmipatch.names import base_name

if TYPE_CHECKING:
    from vmipatch.rom import Rom, Rom13

SCHEMA = "vmipatch.rom/1"
PAGE_LEN = 0x1000
XEN: Final = (
    "the ROM for Xen is not a file of its own: `vmipatch xen-image` links it with a rewritten "
    "kernel, which calls it by API 3.1. A kernel of API 13 is not rewritten: before VMI_Init Xen "
    "would let its PUSHF, POPF and the like pass unseen, and after it Linux calls a copy of the "
    "ROM, which one that is linked where it stands cannot be"
)


def _page_address(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """The linear address of a page, as Python writes numbers."""
    try:
        address = int(text, 0)
    except ValueError:
        address = -1
    if address not in range(0, 1 << 32, PAGE_LEN):
        raise click.BadParameter(f"{text} is not the address of a page, for example 0xfc000000")
    return address


class _FlavorChoice(click.Choice[str]):
    """The flavours, and why there is not one more."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "xen":
            self.fail(XEN, param, ctx)
        return super().convert(value, param, ctx)


@click.command(
    "rom",
    epilog="Example: vmipatch rom --flavor native -o vmi.rom",
    short_help="Build the VMI ROM.",
)
@click.option(
    "--flavor",
    type=_FlavorChoice([flavor.value for flavor in Flavor]),
    default=Flavor.PARAVIRT.value,
    show_default=True,
    help="paravirt: for `vmipatch run`; native: for any PC, each call is the instruction itself; "
    "trace: native, and each call writes its number to port 0xE9.",
)
@click.option(
    "--api",
    type=click.Choice([api.value for api in Api]),
    default=Api.THREE.value,
    show_default=True,
    help="The major version of the interface: 3, which Linux 2.6.21-2.6.36 and rewritten kernels "
    "want, or 13, that of the patches of March 2006.",
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
    console: Console,
    flavor: str,
    api: str,
    virtual_top: int,
    output: str,
    json_file: str | None,
) -> None:
    """Build the VMI ROM; QEMU takes the native and trace ones with -option-rom."""
    check_outputs([], [output, json_file])
    version, rom = _build(Flavor(flavor), Api(api), virtual_top)
    outputs = [Output(output, rom.data)]
    report = {
        "output": base_name(output),
        "output_len": len(rom.data),
        "output_sha256": hashlib.sha256(rom.data).hexdigest(),
        "flavor": flavor,
        "api": version,
        "calls": len(rom.entries),
        "virtual_top": virtual_top,
    }
    if json_file is not None:
        outputs.append(json_output(json_file, SCHEMA, report))
    write_all(outputs)
    console.say(
        f"{escaped(output)}: {len(rom.data)} bytes, VMI API {version}, "
        f"{len(rom.entries)} calls, {flavor}"
    )


def _build(flavor: Flavor, api: Api, virtual_top: int) -> tuple[str, Rom | Rom13]:
    """Version and ROM."""
    from vmipatch.rom import build_rom, build_rom_13
    from vmipatch.vmi.api13 import MAJOR_13, MINOR_13
    from vmipatch.vmi.calls import API_MAJOR, API_MINOR

    if api is Api.THREE:
        return f"{API_MAJOR}.{API_MINOR}", build_rom(flavor, virtual_top=virtual_top)
    if virtual_top:
        raise click.UsageError(
            "--virtual-top does not serve --api 13: its kernels fix their hole when they are built"
        )
    return f"{MAJOR_13}.{MINOR_13}", build_rom_13(flavor)
