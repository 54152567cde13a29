# SPDX-License-Identifier: MIT
"""How to write the conformance guest to a file: `python -m examples.vmi_guest -o guest`."""

from __future__ import annotations

from pathlib import Path

import click

from examples.command import output_option, write
from examples.vmi_guest.build import build_elf, build_image
from examples.vmi_guest.build13 import build_elf_13, build_image_13

_BUILDERS = {
    ("3", False): build_elf,
    ("3", True): build_image,
    ("13", False): build_elf_13,
    ("13", True): build_image_13,
}
"""By API, and whether the image is flat."""


@click.command()
@output_option
@click.option("--multiboot", is_flag=True, help="A flat multiboot image instead of an ELF file.")
@click.option(
    "--api",
    type=click.Choice(["3", "13"]),
    default="3",
    show_default=True,
    help="The interface that the guest knows.",
)
def main(output: Path, multiboot: bool, api: str) -> None:
    """Build the guest that checks a VMI ROM call by call and reports on the serial port."""
    write(output, _BUILDERS[api, multiboot])


if __name__ == "__main__":
    main()
