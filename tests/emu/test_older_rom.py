# SPDX-License-Identifier: MIT
"""Does a rewritten kernel on a ROM of API 13 do what decision 0050 says?"""

from __future__ import annotations

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.guest import SECOND_NS
from tests.emu.hypervised_boot import HypervisedBoot, boot
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.report import Ending
from vmipatch.rom import build_rom_13

pytestmark = pytest.mark.kernels

ANSWERS = slice(0x70, 0x76)
"""Where our ROM says that it has the answers of API 3.1."""


def said(done: HypervisedBoot) -> list[str]:
    """The runtime's lines."""
    return [line[line.index("vmi: ") :] for line in done.console.splitlines() if "vmi: " in line]


def of_others(change: bytes) -> bytes:
    """A ROM of API 13 with other bytes there, and a sum of 0 all the same."""
    data = bytearray(build_rom_13(Flavor.PARAVIRT).data)
    data[ANSWERS] = change
    data[-1] = (data[-1] - sum(data)) & 0xFF
    return bytes(data)


def test_kernel_runs_paravirtually_where_the_answers_of_api_3_1_are(
    rewritten: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    rom = build_rom_13(Flavor.PARAVIRT).data
    files = str(rewritten("tiny")), str(initramfs("short.sh", ()))
    done = boot(Mode.PARAVIRT, *files, rom=rom)
    done.check()
    (line,) = said(done)
    assert line.startswith("vmi: paravirtual, ")
    assert int(line.split()[2]) > 3000
    assert done.result.statistics.traps[ExitKind.HYPERCALL_CALL] > 100


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (bytes(6), "ROM of API 13 has no fallbacks"),
        (b"VMP3\x00\x03", "ROM has another API version"),
        (b"VMP3\x01\x0d", "ROM has another API version"),
    ],
    ids=["no answers", "those of 3.0", "those of another major version"],
)
def test_kernel_stays_native_where_they_are_not_and_says_so(
    rewritten: KernelFinder, initramfs: InitramfsBuilder, change: bytes, reason: str
) -> None:
    files = str(rewritten("tiny")), str(initramfs("short.sh", ()))
    done = boot(Mode.PARAVIRT, *files, rom=of_others(change), limit_ns=SECOND_NS // 4)
    assert said(done) == [f"vmi: {reason}, native"]
    assert done.result.ending is Ending.LIMIT
    traps = done.result.statistics.traps
    assert not any(traps[kind] for kind in ExitKind if kind.name.startswith("HYPERCALL"))
    assert done.sensitive > 100, "they are emulated"
