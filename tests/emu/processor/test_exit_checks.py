# SPDX-License-Identifier: MIT
"""Does each stop come where it did, though most loads and stores are not followed by a check?"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from unicorn import x86_const

from tests.emu.processor.stops import AFTER, PROGRAMS
from vmipatch.emu.processor import engine
from vmipatch.emu.processor.bench import CODE_PA, Bench

NO_EXIT_REQUEST_OFF = 0x7F2
"""In uc_struct."""
CALLING = ("out", "out dx", "in", "in dx", "outs", "cpuid", "rdtsc")


@cache
def stops(
    plain: str, module: str = "import tests.emu.processor.stops as s; s.main()"
) -> dict[str, str]:
    """Name and the rest of each line."""
    done = subprocess.run(
        [sys.executable, "-c", module],
        env={**os.environ, engine.PLAIN_UNICORN: plain},
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", [*PROGRAMS, "watch", "watch a store"])
def test_stop_comes_where_it_came(name: str) -> None:
    """Registers, memory and blocks too, there and at the next two stops."""
    assert stops("")[name] == stops("1")[name]


@pytest.mark.parametrize("name", CALLING)
def test_stop_in_a_callback_comes_before_the_next_store(name: str) -> None:
    """The store itself may have been made; it is made again, with the same value."""
    state = stops("")[name].split(" | ")[0].split()
    store_va = CODE_PA + PROGRAMS[name].index(AFTER) + 1
    assert state[:2] == ["STOP", hex(store_va)]


def test_operations_that_are_left_out_count() -> None:
    """Else long blocks would end elsewhere, and slices with them."""
    module = "\n".join(
        (
            "import dataclasses",
            "from tests.emu.processor import stops",
            "from vmipatch.emu.processor import engine",
            "engine.CHANGES = dataclasses.replace(engine.CHANGES, edits=())",
            "stops.main()",
        )
    )
    assert stops("", module)["many operations"] != stops("1")["many operations"]


@pytest.mark.parametrize(("name", "is_checked"), [("loop", False), ("out", True)])
def test_checks_are_left_out_until_a_callback_is_possible(name: str, is_checked: bool) -> None:
    bench = Bench()
    assert bench.cpu.plain_because == ""
    bench.run(PROGRAMS[name])
    flag = ctypes.c_uint8.from_address(bench.cpu._engine._handle.value + NO_EXIT_REQUEST_OFF).value
    assert flag == (not is_checked)


def test_other_instances_keep_all_their_checks() -> None:
    unicorn, eip = engine._BINDING, x86_const.UC_X86_REG_EIP
    assert Bench().cpu.plain_because == ""
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, bytes.fromhex("a100100000ff050018000090"))
    stopped_at = []

    def stop(uc: Any, *_: object) -> None:
        stopped_at.append(uc.reg_read(eip))
        uc.emu_stop()

    uc.hook_add(unicorn.UC_HOOK_MEM_READ, stop)
    uc.emu_start(0x1000, 0x100C)
    assert stopped_at == [0x1000]
