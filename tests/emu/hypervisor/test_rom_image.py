# SPDX-License-Identifier: MIT
"""Where is the state of another processor that a guest names, by either API?"""

from __future__ import annotations

import pytest

from vmipatch.choices import Flavor
from vmipatch.emu.hypervisor.rom_image import GuestRom
from vmipatch.emu.processor.memory import GuestMemory
from vmipatch.rom import build_rom, build_rom_13

BASE_VA = 0xC0000000
KERNEL_SS = 0x69


def placed(image: bytes, base_va: int) -> GuestRom:
    """A ROM after VMI_Init of a kernel that sees low memory at `base_va`."""
    memory = GuestMemory(4 << 20)
    rom = GuestRom(image)
    rom.plug(memory)
    rom.place(memory, base_va, KERNEL_SS)
    return rom


@pytest.mark.parametrize(
    ("told", "base_va", "state_va"),
    [
        (0x20C000, BASE_VA, 0xC020C000),  # Linux of March 2006: __pa() of a variable
        (0xC020C000, BASE_VA, 0xC020C000),  # the specification: a linear address
        (0x20C000, 0, 0x20C000),
    ],
)
def test_state_is_at_a_physical_or_linear_address_by_api_13(
    told: int, base_va: int, state_va: int
) -> None:
    rom = placed(build_rom_13(Flavor.PARAVIRT).data, base_va)
    assert rom.state_va(told) == state_va


def test_state_is_at_a_linear_address_by_api_3() -> None:
    rom = placed(build_rom(Flavor.PARAVIRT).data, BASE_VA)
    assert rom.state_va(0x20C000) == 0x20C000
