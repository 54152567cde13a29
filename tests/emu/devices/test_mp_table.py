# SPDX-License-Identifier: MIT
"""Can a reader who knows the MultiProcessor Specification find the processors?"""

from __future__ import annotations

import struct

import pytest

from vmipatch.emu.devices.mp_table import mp_table

BASE_PA, APIC_PA, IO_APIC_PA = 0xF0000, 0xFEE00000, 0xFEC00000
SIGNATURE, FEATURES = 0x106CA, 0x201
ENTRY_LENGTHS = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}
"""Table 4-3 of the specification."""


def entries(memory: bytes) -> list[bytes]:
    """The base table, found and checked as chapter 4 describes it."""
    places = [place for place in range(0, len(memory), 16) if memory[place : place + 4] == b"_MP_"]
    assert places == [0]
    pointer = memory[:16]
    assert pointer[8] == 1, "paragraphs"
    assert sum(pointer) & 0xFF == 0
    assert pointer[9] == 4
    assert pointer[11:] == bytes(5), "no default configuration, no PIC mode"
    table = memory[struct.unpack_from("<I", pointer, 4)[0] - BASE_PA :]
    signature, length, revision = struct.unpack_from("<4sHB", table)
    assert (signature, revision) == (b"PCMP", 4)
    assert sum(table[:length]) & 0xFF == 0
    count, apic_pa, extended_len = struct.unpack_from("<HIH", table, 34)
    assert (apic_pa, extended_len) == (APIC_PA, 0)
    found, place = [], 44
    for _ in range(count):
        entry_len = ENTRY_LENGTHS[table[place]]
        found.append(table[place : place + entry_len])
        place += entry_len
    assert place == length == len(table)
    assert [entry[0] for entry in found] == sorted(entry[0] for entry in found)
    return found


def table(cpus: int) -> list[bytes]:
    return entries(
        mp_table(cpus, base_pa=BASE_PA, apic_pa=APIC_PA, signature=SIGNATURE, features=FEATURES)
    )


@pytest.mark.parametrize("cpus", [1, 2, 8])
def test_every_processor_is_there_and_the_first_one_boots(cpus: int) -> None:
    found = [entry for entry in table(cpus) if entry[0] == 0]
    assert [entry[1] for entry in found] == list(range(cpus))
    assert [entry[3] for entry in found] == [3] + [1] * (cpus - 1)
    assert {struct.unpack_from("<II", entry, 4) for entry in found} == {(SIGNATURE, FEATURES)}


def test_lines_of_the_at_are_at_their_pins_and_the_timer_at_pin_2() -> None:
    pins = {entry[5]: entry[7] for entry in table(2) if entry[0] == 3}
    assert pins == {line: line for line in range(16) if line != 2} | {0: 2}
    routes = {entry[6] for entry in table(2) if entry[0] == 3}
    io_apics = [entry for entry in table(2) if entry[0] == 2]
    assert [(entry[1], entry[3]) for entry in io_apics] == [(2, 1)]
    assert struct.unpack_from("<I", io_apics[0], 4) == (IO_APIC_PA,)
    assert routes == {2}


def test_old_controllers_reach_the_boot_processor_and_nmi_all() -> None:
    local = [(entry[1], entry[6], entry[7]) for entry in table(4) if entry[0] == 4]
    assert local == [(3, 0, 0), (1, 0xFF, 1)]
