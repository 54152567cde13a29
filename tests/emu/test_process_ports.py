# SPDX-License-Identifier: MIT
"""Do processes that try ports fare as in QEMU, whatever they may and whatever follows?"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.emu.port_cases import kernel
from tests.support.qemu import EMULATOR
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom

MODES = [Mode.NATIVE, Mode.TRAP, Mode.AUDIT]
LIMIT_NS = 60_000_000_000
_LINE = re.compile(r"^[0-9a-f]{10}(?=\r?$)", re.MULTILINE)


def in_qemu(path: Path) -> list[str]:
    """The lines of the kernel in QEMU's PC."""
    done = subprocess.run(
        [EMULATOR, "-nographic", "-no-reboot", "-m", "64", "-accel", "tcg", "-monitor", "none",
         "-serial", "stdio", "-kernel", str(path)],
        check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
    )  # fmt: skip
    return _LINE.findall(done.stdout.decode())  # the firmware speaks first


def here(path: Path, mode: Mode) -> list[str]:
    terminal = Silence()
    options = MachineOptions(ram_len=16 << 20, limit_ns=LIMIT_NS)
    machine = build_machine(MachineSpec(mode, options, build_rom(Flavor.PARAVIRT).data), terminal)
    result = machine.run(Boot(ElfImage.parse(path.read_bytes(), path.name)))
    assert result.ending is Ending.RESET, result
    return bytes(terminal.heard).decode().split()


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("seed", "count"), [(1, 150), pytest.param(2, 1000, marks=pytest.mark.slow)]
)
def test_random_processes_with_ports_do_as_in_qemu(tmp_path: Path, seed: int, count: int) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(kernel(seed, count))
    right = in_qemu(path)
    assert len(right) == count
    vectors = Counter(line[:2] for line in right)
    assert min(vectors["0d"], vectors["30"]) > count // 5, "refused, and allowed"
    for mode in MODES:
        found = here(path, mode)
        wrong = [i for i, pair in enumerate(zip(right, found, strict=True)) if len(set(pair)) > 1]
        assert not wrong, (mode, wrong[:5], [(right[i], found[i]) for i in wrong[:5]])
