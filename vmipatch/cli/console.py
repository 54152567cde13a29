# SPDX-License-Identifier: MIT
"""How a command talks: data to standard output, everything else to standard error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from vmipatch import __version__
from vmipatch.cli.files import write_file

STDOUT = "-"


@dataclass(slots=True)
class Console:
    """What the user asked for with -v and -q, kept for all commands."""

    verbosity: int = 0

    def say(self, text: str) -> None:
        """Tell the user what was done; silent with -q."""
        if self.verbosity >= 0:
            click.echo(text, err=True)

    def detail(self, text: str) -> None:
        """Tell more, with -v."""
        if self.verbosity > 0:
            click.echo(text, err=True)

    def data(self, text: str) -> None:
        """Print what the user asked for."""
        click.echo(text)


pass_console = click.make_pass_decorator(Console, ensure=True)

json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Write the report as JSON to FILE, - for stdout."
)


def write_json(json_file: str, schema: str, report: dict[str, Any]) -> None:
    """Write a report under the name and version of its schema, for example `vmipatch.scan/1`."""
    document = {"schema": schema, "vmipatch": __version__, **report}
    text = json.dumps(document, indent=1) + "\n"
    if json_file == STDOUT:
        click.echo(text, nl=False)
    else:
        write_file(json_file, text.encode())


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned by width, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    numeric = [all(row[i].isdigit() for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, cells)])
