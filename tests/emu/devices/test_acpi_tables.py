# SPDX-License-Identifier: MIT
"""Can a reader who knows ACPI 1.0 find processors, power-off and timer? iasl is one."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from tests.support.absent import program
from vmipatch.emu.devices.acpi_tables import acpi_tables

BASE_PA, APIC_PA, IO_APIC_PA = 0xF1000, 0xFEE00000, 0xFEC00000


def tables(cpus: int = 2) -> dict[str, bytes]:
    """All tables by signature, found from the root pointer as 5.2 describes it."""
    memory = acpi_tables(cpus, base_pa=BASE_PA, apic_pa=APIC_PA)
    assert len(memory) == 4096
    places = [at for at in range(0, len(memory), 16) if memory[at : at + 8] == b"RSD PTR "]
    assert places == [0]
    assert sum(memory[:20]) & 0xFF == 0
    found: dict[str, bytes] = {}

    def add(pa: int) -> bytes:
        length = struct.unpack_from("<I", memory, pa - BASE_PA + 4)[0]
        table = memory[pa - BASE_PA : pa - BASE_PA + length]
        found[table[:4].decode()] = table
        return table

    root = add(struct.unpack_from("<I", memory, 16)[0])
    for (pa,) in struct.iter_unpack("<I", root[36:]):
        add(pa)
    facs_pa, dsdt_pa = struct.unpack_from("<II", found["FACP"], 36)
    add(facs_pa)
    add(dsdt_pa)
    assert facs_pa % 64 == 0
    return found


def test_lengths_and_sums_are_right() -> None:
    found = tables()
    assert set(found) == {"RSDT", "FACP", "FACS", "DSDT", "APIC"}
    for name, table in found.items():
        if name != "FACS":  # has no sum
            assert sum(table) & 0xFF == 0, name
            assert table[8] == 1, name
    assert len(found["FACP"]) == 116
    assert len(found["FACS"]) == 64


def test_fixed_hardware_is_where_the_fields_say() -> None:
    fadt = tables()["FACP"]
    assert struct.unpack_from("<H", fadt, 46) == (9,)  # SCI_INT
    assert struct.unpack_from("<I", fadt, 48) == (0,)  # SMI_CMD: no other mode than ACPI
    assert struct.unpack_from("<6I", fadt, 56) == (0x600, 0, 0x604, 0, 0, 0x608)
    assert (fadt[88], fadt[89], fadt[91]) == (4, 2, 4)
    assert struct.unpack_from("<I", fadt, 112) == (1 << 0 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6,)


@pytest.mark.parametrize("cpus", [1, 2, 8])
def test_madt_has_processors_and_the_pins_of_the_at(cpus: int) -> None:
    madt = tables(cpus)["APIC"]
    assert struct.unpack_from("<II", madt, 36) == (APIC_PA, 1)
    entries, place = [], 44
    while place < len(madt):
        entries.append(madt[place : place + madt[place + 1]])
        place += madt[place + 1]
    locals_ = [entry for entry in entries if entry[0] == 0]
    assert [(entry[2], entry[3], entry[4]) for entry in locals_] == [(n, n, 1) for n in range(cpus)]
    io_apics = [entry for entry in entries if entry[0] == 1]
    assert [struct.unpack_from("<BxII", entry, 2) for entry in io_apics] == [(cpus, IO_APIC_PA, 0)]
    overrides = [struct.unpack_from("<BBIH", entry, 2) for entry in entries if entry[0] == 2]
    assert overrides == [(0, 0, 2, 0), (0, 9, 9, 0b1101)]
    assert [entry[2:] for entry in entries if entry[0] == 4] == [b"\xff\0\0\x01"]


def test_aml_names_the_sleep_type_of_soft_off() -> None:
    aml = tables()["DSDT"][36:]
    assert aml == b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00"


def test_iasl_takes_them_apart_and_puts_them_together_again(tmp_path: Path) -> None:
    iasl = program("iasl")
    for name, table in tables().items():
        if name == "RSDT":  # its entries are known only once the tables lie in memory
            continue
        (tmp_path / f"{name}.aml").write_bytes(table)
        said = _run(iasl, tmp_path, "-d", f"{name}.aml")
        assert "Warning" not in said, said
        source = (tmp_path / f"{name}.dsl").read_text()
        assert "Incorrect checksum" not in source, source
        again = _run(iasl, tmp_path, "-p", f"{name}.again", f"{name}.dsl")
        assert "Error    " not in again, again
    assert "Name (_S5" in (tmp_path / "DSDT.dsl").read_text()
    assert "0xFEC00000" not in (tmp_path / "DSDT.dsl").read_text()
    assert "FEC00000" in (tmp_path / "APIC.dsl").read_text()


def _run(program: str, where: Path, *arguments: str) -> str:
    done = subprocess.run(
        [program, *arguments], cwd=where, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
