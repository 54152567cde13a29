# SPDX-License-Identifier: MIT
"""How to write the conformance guest to a file: `python -m examples.vmi_guest -o guest`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from examples.vmi_guest.build import build_elf, build_image
from vmipatch.errors import EnvironmentProblem, VmipatchError


@click.command()
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the guest.",
)
@click.option("--multiboot", is_flag=True, help="A flat multiboot image instead of an ELF file.")
def main(output: Path, multiboot: bool) -> None:
    """Build the guest that checks a VMI ROM call by call and reports on the serial port."""
    try:
        image = build_image() if multiboot else build_elf()
        try:
            output.write_bytes(image)
        except OSError as error:
            raise EnvironmentProblem(str(error.strerror), file=str(output)) from error
    except VmipatchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(f"{output}: {len(image)} bytes")


if __name__ == "__main__":
    main()
