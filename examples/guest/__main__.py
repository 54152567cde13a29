# SPDX-License-Identifier: MIT
"""How to write the guest kernel to a file: `python -m examples.guest -o vmlinux`."""

from __future__ import annotations

from pathlib import Path

import click

from examples.command import output_option, write
from examples.guest.build import build


@click.command()
@output_option
def main(output: Path) -> None:
    """Build the example guest kernel, an i386 vmlinux with symbols and relocations."""
    write(output, build)


if __name__ == "__main__":
    main()
