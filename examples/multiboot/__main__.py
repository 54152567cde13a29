# SPDX-License-Identifier: MIT
"""How to write the multiboot kernel to a file: `python -m examples.multiboot -o kernel`."""

from __future__ import annotations

from pathlib import Path

import click

from examples.command import output_option, write
from examples.multiboot.build import build


@click.command()
@output_option
def main(output: Path) -> None:
    """Build the example multiboot kernel, an ELF file with symbols and relocations."""
    write(output, build)


if __name__ == "__main__":
    main()
