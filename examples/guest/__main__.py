# SPDX-License-Identifier: MIT
"""How to write the guest kernel to a file: `python -m examples.guest -o vmlinux`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from examples.guest.build import build
from vmipatch.errors import EnvironmentProblem, VmipatchError


@click.command()
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the ELF file.",
)
def main(output: Path) -> None:
    """Build the example guest kernel, an i386 vmlinux with symbols and relocations."""
    try:
        image = build()
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
