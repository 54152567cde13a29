# SPDX-License-Identifier: MIT
"""How do examples write the file that they build? One way, with one kind of error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from vmipatch.errors import EnvironmentProblem, VmipatchError

output_option = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the file.",
)


def write(output: Path, build: Callable[[], bytes]) -> None:
    """Build and write a file, and say how long it is; ends the program with an error's code."""
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
