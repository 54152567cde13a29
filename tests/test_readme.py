# SPDX-License-Identifier: MIT
"""The figures of README.md: are they those that the commands print?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.guest import build
from tests.cli.commands import invoke
from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.hypervised_boot import boot
from vmipatch.choices import Mode
from vmipatch.image.elf import ElfImage

README = (Path(__file__).parents[1] / "README.md").read_text()
LARGEST_README = 120
"""Lines: a stranger reads two screens, and goes on by links."""
NUMBER = re.compile(r"\d+")
TIMES = re.compile(r"(\s+(-|\d+\.\d+ s))*\s*$")


def line_of(start: str) -> str:
    """The line of README.md that begins so."""
    (found,) = [line for line in README.splitlines() if line.startswith(start)]
    return found


def same(printed: str, told: str, image: ElfImage) -> bool:
    """Whether a line is README's; its numbers hold for the version of Linux that README names."""
    if b"Linux version 6.1.176 " in image.data:
        return printed == told
    return NUMBER.sub("", printed) == NUMBER.sub("", told)


@pytest.mark.kernels
def test_figures_of_tiny_are_what_the_commands_print(
    kernel: KernelFinder, initramfs: InitramfsBuilder, tmp_path: Path
) -> None:
    original, output = kernel("tiny"), tmp_path / "vmlinux.vmi"
    image = ElfImage.parse(original.read_bytes())
    assert "Linux 6.1.176" in README
    done = invoke("rewrite", original, "-o", output)
    printed = done.stderr.splitlines()[0].replace(str(output), "vmlinux.vmi")
    assert same(printed, line_of("vmlinux.vmi: 3"), image)
    booted = boot(Mode.PARAVIRT, str(output), str(initramfs("short.sh", ())))
    booted.check()
    (said,) = (line for line in booted.console.splitlines() if "vmi: " in line)
    assert same(said, line_of("[    0.000000] vmi: "), image)


def test_figures_of_the_demo_are_what_it_prints(tmp_path: Path) -> None:
    original, output = tmp_path / "vmlinux", tmp_path / "vmlinux.vmi"
    original.write_bytes(build())
    invoke("rewrite", original, "-o", output)
    done = invoke("verify", output, "--original", original)
    assert done.returncode == 0, done.stderr
    printed = [words(line) for line in done.stdout.splitlines()]
    demo = README[README.index("The end of `make demo`") :].split("```")[1]
    for line in demo.strip().splitlines()[2:]:
        if line != "..." and not line.startswith("build/"):
            assert words(line) in printed, line


def words(line: str) -> str:
    """A line of a table without its widths, and without the times of host and machine."""
    return " ".join(TIMES.sub("", line).split())


def test_readme_is_short_and_has_a_picture() -> None:
    assert len(README.splitlines()) <= LARGEST_README
    assert "](docs/pictures/architecture.svg)" in README
