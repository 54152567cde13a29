# SPDX-License-Identifier: MIT
"""Is the ROM what a BIOS, a VMI kernel and the hypervisor each look for?"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import subprocess
import sys

import pytest

from vmipatch.choices import Flavor
from vmipatch.errors import InputNotUnderstood
from vmipatch.rom import build_rom
from vmipatch.rom.entries import (
    HYPERVISOR_ONLY,
    NEEDLESS,
    SERVED,
    RelocationType,
    relocation_type,
    served_calls,
)
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.marks import Marks, parse_marks
from vmipatch.vmi.shared import (
    MARKS_SIGNATURE,
    ROM_MAX_LEN,
    ROM_PA,
    SHARED_PA,
    TIME_PA,
    Restart,
    RomMark,
)
from vmipatch.vmi.table import ROWS

TIMER = (
    VmiCall.GET_CYCLE_FREQUENCY,
    VmiCall.GET_CYCLE_COUNTER,
    VmiCall.SET_ALARM,
    VmiCall.CANCEL_ALARM,
    VmiCall.GET_WALLCLOCK_TIME,
    VmiCall.WALLCLOCK_UPDATED,
)
flavors = pytest.mark.parametrize("flavor", Flavor)


def u16(data: bytes, off: int) -> int:
    return int.from_bytes(data[off : off + 2], "little")


def u32(data: bytes, off: int) -> int:
    return int.from_bytes(data[off : off + 4], "little")


def string(data: bytes, off: int) -> str:
    return data[off : data.index(0, off)].decode()


@flavors
def test_bios_finds_an_option_rom_with_sum_zero(flavor: Flavor) -> None:
    data = build_rom(flavor).data
    assert data[:2] == b"\x55\xaa"
    assert data[2] * 512 == len(data) <= ROM_MAX_LEN
    assert sum(data) % 256 == 0
    assert data[3] == 0xCB


@flavors
def test_kernel_finds_header_of_api_3_1(flavor: Flavor) -> None:
    data = build_rom(flavor).data
    assert data[0x08:0x0E] == b"cVmi\x01\x03"
    assert u32(data, 0x10) == 0
    assert string(data, u16(data, 0x16)) == "GPL v2"
    pci = u16(data, 0x18)
    assert data[pci : pci + 8] == b"PCIR" + struct.pack("<HH", 0x15AD, 0x0801)
    assert u16(data, pci + 0x0A) == 0x18
    assert u16(data, pci + 0x10) == len(data) // 512
    assert data[pci + 0x14 : pci + 0x16] == b"\x00\x80"


@flavors
def test_pnp_header_names_manufacturer_and_product(flavor: Flavor) -> None:
    data = build_rom(flavor).data
    pnp = u16(data, 0x1A)
    assert pnp % 16 == 0
    assert data[pnp : pnp + 6] == b"$PnP\x01\x02"
    assert sum(data[pnp : pnp + 32]) % 256 == 0
    assert string(data, u16(data, pnp + 0x0E)) == "vmipatch"
    assert string(data, u16(data, pnp + 0x10)) == f"VMI ROM ({flavor.value})"


@flavors
def test_jump_points_lead_to_the_entries(flavor: Flavor) -> None:
    rom = build_rom(flavor)
    for off, target in ((0x80, rom.init_off), (0x88, rom.get_reloc_off)):
        assert rom.data[off] == 0xE9
        assert off + 5 + int.from_bytes(rom.data[off + 1 : off + 5], "little") == target


@flavors
def test_same_arguments_give_same_bytes(flavor: Flavor) -> None:
    assert build_rom(flavor).data == build_rom(flavor).data


def test_every_process_builds_the_same_roms() -> None:
    """Nothing of the host goes in: neither the order of a hash nor the place of the sources."""
    source = (
        "import hashlib; from vmipatch.choices import Flavor; from vmipatch.rom import build_rom; "
        "print(*(hashlib.sha256(build_rom(f).data).hexdigest() for f in Flavor))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", source], check=True, capture_output=True, text=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    here = [hashlib.sha256(build_rom(flavor).data).hexdigest() for flavor in Flavor]
    assert seen == {" ".join(here) + "\n"}


@flavors
def test_every_served_call_has_an_entry_of_its_own(flavor: Flavor) -> None:
    entries = build_rom(flavor).entries
    assert list(entries) == list(served_calls(flavor))
    assert len(set(entries.values())) == len(entries)
    assert all(off % 16 == 0 for off in entries.values())


@flavors
def test_answers_are_those_an_in_tree_kernel_survives(flavor: Flavor) -> None:
    assert relocation_type(VmiCall.IRET, flavor) is RelocationType.CALL_REL
    assert relocation_type(VmiCall.SYSEXIT, flavor) is RelocationType.CALL_REL
    for call in TIMER:  # together, or not at all
        declined = relocation_type(call, flavor) is RelocationType.NONE
        assert declined is (flavor is not Flavor.PARAVIRT)
    for call in (row.call for row in ROWS if not row.is_documented):
        assert relocation_type(call, flavor) is RelocationType.NONE
    assert relocation_type(VmiCall.IO_DELAY, flavor) is RelocationType.NOP
    for call in (VmiCall.RDMSR, VmiCall.WRMSR, VmiCall.RDPMC):
        assert relocation_type(call, flavor) is RelocationType.NONE
    assert NEEDLESS.isdisjoint(SERVED)


def test_rom_for_a_pc_has_no_calls_of_the_hypervisor() -> None:
    for call in HYPERVISOR_ONLY:
        assert relocation_type(call, Flavor.PARAVIRT) is RelocationType.CALL_REL
        assert relocation_type(call, Flavor.NATIVE) is RelocationType.NONE


def test_knobs_change_what_they_name() -> None:
    rom = build_rom(
        Flavor.PARAVIRT,
        api_major=4,
        api_minor=7,
        license="BSD",
        fail_init=True,
        none={VmiCall.CPUID, VmiCall.IRET},
    )
    data = rom.data
    assert data[0x0C:0x0E] == b"\x07\x04"
    assert string(data, u16(data, 0x16)) == "BSD"
    assert sum(data) % 256 == 0
    assert set(SERVED) - set(rom.entries) == {VmiCall.CPUID, VmiCall.IRET}
    assert rom.marks.iret_off == 0
    assert rom.restarts == ()


def test_rom_without_calls_is_still_a_rom() -> None:
    rom = build_rom(Flavor.NATIVE, none=frozenset(VmiCall))
    assert rom.entries == {}
    assert sum(rom.data) % 256 == 0


@pytest.mark.parametrize("flavor", [Flavor.NATIVE, Flavor.TRACE])
def test_rom_for_any_pc_has_no_absolute_word(flavor: Flavor) -> None:
    assert parse_marks(build_rom(flavor).data) == Marks()


def test_hypervisor_reads_the_marks_back() -> None:
    rom = build_rom(Flavor.PARAVIRT)
    assert parse_marks(rom.data) == rom.marks
    assert u32(rom.data, RomMark.MARKS) == MARKS_SIGNATURE
    assert u16(rom.data, RomMark.IRET) == rom.marks.iret_off
    assert rom.data[rom.marks.iret_off] == 0xCF


def test_fixed_up_words_point_into_rom_and_shared_pages() -> None:
    rom = build_rom(Flavor.PARAVIRT)
    pages = [(ROM_PA, len(rom.data)), (SHARED_PA, 0x1000), (TIME_PA, 0x1000)]
    assert len(rom.fixups) > 20
    for off in rom.fixups:
        assert any(start <= u32(rom.data, off) < start + length for start, length in pages)


def test_restart_regions_join_up_to_the_hardware_iret() -> None:
    rom = build_rom(Flavor.PARAVIRT)
    regions = sorted(rom.restarts, key=lambda region: region.start_off)
    assert all(a.end_off == b.start_off for a, b in itertools.pairwise(regions))
    assert regions[-1].start_off == rom.marks.iret_off
    assert regions[-1].kind is Restart.IRET_FRAME


def test_rom_of_somebody_else_has_no_marks() -> None:
    assert parse_marks(b"\x55\xaa\x01\xcb") is None
    assert parse_marks(bytes(512)) is None


@pytest.mark.parametrize(
    ("off", "value"),
    [
        (RomMark.FIXUPS, 0xFFFF),
        (RomMark.FIXUPS + 2, 0xFFFF),
        (RomMark.RESTARTS, 0xFFFF),
        (RomMark.RESTARTS + 2, 0xFFFF),
        (RomMark.IRET, 0xFFFF),
    ],
)
def test_marks_that_lead_outside_are_refused(off: int, value: int) -> None:
    data = bytearray(build_rom(Flavor.PARAVIRT).data)
    data[off : off + 2] = value.to_bytes(2, "little")
    with pytest.raises(InputNotUnderstood, match="marks of the ROM"):
        parse_marks(bytes(data))


def test_region_of_unknown_kind_is_refused() -> None:
    rom = build_rom(Flavor.PARAVIRT)
    data = bytearray(rom.data)
    data[u16(rom.data, RomMark.RESTARTS) + 6] = 99
    with pytest.raises(InputNotUnderstood, match="unknown kind 99"):
        parse_marks(bytes(data))
