# SPDX-License-Identifier: MIT
"""Do kernels that print what they see print the same at CPL 0 and CPL 1, here and in QEMU?"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.support.absent import program
from tests.support.qemu import EMULATOR
from tests.verify.sites.kernels import example, paravirt_rom
from tests.verify.sites.random_guest import build_random_guest
from vmipatch.choices import Mode, Padding
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.hypervisor.paravirt import ParavirtPrivilege
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage
from vmipatch.image.wrap import wrap
from vmipatch.rewrite import rewrite
from vmipatch.rewrite.rewrite import RewriteOptions

BANNER = "GUEST i386"
SAMPLE, CAMPAIGN = 5, 100
OPTIONS = MachineOptions(ram_len=64 << 20, limit_ns=300_000_000_000)


def random_guest(states: int) -> ElfImage:
    return ElfImage.parse(build_random_guest("a seed", states), "random guest")


def rewritten(image: ElfImage, padding: Padding) -> ElfImage:
    return ElfImage.parse(rewrite(image, RewriteOptions(padding)).data, f"{image.name}, rewritten")


@cache
def printed_by_example() -> str:
    return printed(example(), Mode.NATIVE)


def printed(image: ElfImage, mode: Mode) -> str:
    terminal = Silence()
    machine = build_machine(MachineSpec(mode, OPTIONS, paravirt_rom()), terminal)
    result = machine.run(Boot(image))
    assert result.ending is Ending.RESET, f"{result.details}\n{terminal.heard.decode('ascii')}"
    privilege = machine.privilege
    if isinstance(privilege, ParavirtPrivilege) and "rewritten" in image.name:
        assert privilege.is_paravirtual
        assert not [finding for finding in privilege.findings() if finding.is_unprivileged]
    return terminal.heard.decode("ascii").replace("\r", "")


def printed_in_qemu(image: ElfImage, folder: Path) -> str:
    program(EMULATOR)
    kernel = folder / "bzImage"
    kernel.write_bytes(wrap(image, None))
    command = [EMULATOR, "-accel", "tcg", "-nographic", "-no-reboot", "-nic", "none", "-m", "64"]
    done = subprocess.run(
        [*command, "-kernel", str(kernel)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=240,
        check=True,
    )
    text = done.stdout.decode("ascii", "replace").replace("\r", "")
    return text[text.index(BANNER) :]


@pytest.mark.parametrize("mode", Mode)
def test_example_sees_the_same_in_every_mode(mode: Mode) -> None:
    assert printed(example(), mode) == printed_by_example()


@pytest.mark.parametrize("padding", Padding)
@pytest.mark.parametrize("mode", Mode)
def test_rewritten_example_sees_the_same_in_every_mode(mode: Mode, padding: Padding) -> None:
    assert printed(rewritten(example(), padding), mode) == printed_by_example()


def with_page_tables_named(text: str, image: ElfImage) -> str:
    """`text` with another word for CR3, which is elsewhere in a kernel that has grown."""
    root_va = image.symbols.address("swapper_pg_dir")
    assert root_va is not None
    return text.replace(f"{root_va & 0x3FFFFFFF:x}", "CR3")


@pytest.mark.qemu
@pytest.mark.parametrize("states", [SAMPLE, pytest.param(CAMPAIGN, marks=pytest.mark.slow)])
def test_random_states_in_qemu_and_in_a_paravirtual_kernel(tmp_path: Path, states: int) -> None:
    original = random_guest(states)
    other = rewritten(original, Padding.PREFIX)
    wanted = with_page_tables_named(printed_in_qemu(original, tmp_path), original)
    assert with_page_tables_named(printed(original, Mode.NATIVE), original) == wanted
    assert with_page_tables_named(printed(other, Mode.PARAVIRT), other) == wanted
