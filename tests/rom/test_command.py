# SPDX-License-Identifier: MIT
"""Does `vmipatch rom` write what the Python function builds?"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from vmipatch.choices import Flavor
from vmipatch.cli.console import Console
from vmipatch.cli.rom import rom_command
from vmipatch.errors import EnvironmentProblem
from vmipatch.rom import build_rom


@pytest.mark.parametrize("flavor", Flavor)
def test_command_writes_the_rom_of_the_flavour(flavor: Flavor, tmp_path: Path) -> None:
    output = tmp_path / "vmi.rom"
    arguments = ["--flavor", flavor.value, "-o", str(output)]
    result = CliRunner().invoke(rom_command, arguments, obj=Console(0))
    assert result.exit_code == 0, result.output
    assert output.read_bytes() == build_rom(flavor).data
    assert "VMI API 3.1" in result.output


def test_hole_stands_in_the_header(tmp_path: Path) -> None:
    output = tmp_path / "vmi.rom"
    arguments = ["--virtual-top", "0xfc000000", "-o", str(output)]
    result = CliRunner().invoke(rom_command, arguments, obj=Console(0))
    assert result.exit_code == 0, result.output
    assert output.read_bytes() == build_rom(Flavor.PARAVIRT, virtual_top=0xFC000000).data
    assert output.read_bytes()[0x10:0x14] == bytes([0, 0, 0, 0xFC])


@pytest.mark.parametrize("wrong", ["top", "0xfc000800", "-4096", "0x100000000"])
def test_hole_that_is_no_page_is_a_wrong_command_line(wrong: str, tmp_path: Path) -> None:
    arguments = ["--virtual-top", wrong, "-o", str(tmp_path / "vmi.rom")]
    assert CliRunner().invoke(rom_command, arguments, obj=Console(0)).exit_code == 2


def test_unknown_flavour_is_a_wrong_command_line(tmp_path: Path) -> None:
    arguments = ["--flavor", "vanilla", "-o", str(tmp_path / "vmi.rom")]
    assert CliRunner().invoke(rom_command, arguments, obj=Console(0)).exit_code == 2


def test_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    arguments = ["-o", str(tmp_path / "missing" / "vmi.rom")]
    result = CliRunner().invoke(rom_command, arguments, obj=Console(0))
    assert isinstance(result.exception, EnvironmentProblem)
