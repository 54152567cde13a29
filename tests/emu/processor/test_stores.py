# SPDX-License-Identifier: MIT
"""Does the guest do the same with Unicorn's code changed, and is no stale code executed?"""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import random
import subprocess
import sys
from pathlib import Path

import pytest
from unicorn.unicorn_py3.unicorn import uclib

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.support.unicorn_code import check_equal, run
from vmipatch.emu.processor import calibration, engine
from vmipatch.emu.processor.bench import ALIAS_VA, Bench
from vmipatch.emu.processor.stores import STORES

SPLIT_PA = 0x5FFE
"""Of an instruction with an operand in the next page."""
EFER, EFER_NXE = 0xC0000080, 1 << 11


@functools.cache
def is_changed() -> bool:
    return engine.why_plain() == ""


def test_this_library_is_changed() -> None:
    assert is_changed()


@pytest.mark.kernels
@pytest.mark.parametrize(
    "mode", ["--native", pytest.param("--trap", marks=pytest.mark.slow), "--paravirt"]
)
def test_kernel_leaves_the_same_memory_with_changed_code_and_without(
    kernel: KernelFinder,
    rewritten: KernelFinder,
    initramfs: InitramfsBuilder,
    tmp_path: Path,
    mode: str,
) -> None:
    vmlinux = rewritten("tiny") if mode == "--paravirt" else kernel("tiny")
    initrd = str(initramfs("short.sh", ()))
    seen = check_equal(tmp_path, mode, str(vmlinux), "--initrd", initrd, "--memory", "64")
    assert seen.report["by_guest"]


def test_command_tells_why_the_code_was_left_as_it_is(tmp_path: Path) -> None:
    from tests.emu.test_run_command import REBOOT, write_kernel

    kernel = write_kernel(tmp_path / "vmlinux", REBOOT)
    assert run(tmp_path, "--native", str(kernel), plain=True).unicorn["reason"] == (
        "VMIPATCH_PLAIN_UNICORN is set"
    )


def python(*lines: str, plain: str = "") -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={"PATH": "", engine.PLAIN_UNICORN: plain},
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_variable_keeps_every_byte_of_the_library() -> None:
    off, length = STORES.detours[0].off, len(STORES.detours[0].old)
    symbol = STORES.detours[0].symbol
    lines = (
        "import ctypes",
        "from vmipatch.emu.processor import engine",
        "engine.why_plain()",
        f"va = ctypes.cast(ctypes.CDLL(engine.uclib._name).{symbol}, ctypes.c_void_p).value",
        f"print(ctypes.string_at(va + {off}, {length}).hex())",
    )
    assert python(*lines, plain="1") == STORES.detours[0].old.hex()
    assert python(*lines) != STORES.detours[0].old.hex()


def test_calibration_finds_stale_code() -> None:
    """With one of the two changes alone there is some."""
    only_fast = (
        "import dataclasses",
        "from vmipatch.emu.processor import calibration, engine",
        "engine.CHANGES = dataclasses.replace(engine.STORES, detours=engine.STORES.detours[1:])",
        "assert engine.why_plain() == ''",
        "try:",
        "    calibration.check_unicorn()",
        "except Exception as error:",
        "    print(error)",
    )
    assert "writes to code do not work as measured" in python(*only_fast)


def rewritten_code_is_executed() -> bool:
    return is_changed() and calibration._check_rewritten_code(Bench())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_have_the_changes_too(method: str) -> None:
    assert rewritten_code_is_executed()
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert [pool.apply(rewritten_code_is_executed) for _ in range(4)] == [True] * 4


@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_stores_and_calls_executes_stale_code(seed: int) -> None:
    """One function inside of a page, one across two; stores through two mappings."""
    dice = random.Random(seed)
    bench = Bench()
    memory, alias_va = bench.memory, ALIAS_VA
    code = calibration._RETURN_EAX
    functions = (calibration._OTHER_CODE_PA, SPLIT_PA)
    program, expected = bytearray(), 0
    values = dict.fromkeys(functions, 0)
    program += bytes.fromhex("31ff")  # xor edi, edi
    for _ in range(60):
        pa = dice.choice(functions)
        if dice.random() < 0.6:
            values[pa] = dice.randrange(256)
            va = pa + 1 + dice.choice((0, alias_va))
            program += b"\xc6\x05" + va.to_bytes(4, "little") + bytes([values[pa]])
        else:
            # mov eax, pa; call eax; imul edi, edi, 31; add edi, eax
            program += b"\xb8" + pa.to_bytes(4, "little") + bytes.fromhex("ffd06bff1f01c7")
            expected = (expected * 31 + values[pa]) % (1 << 32)
    for pa in functions:
        memory.load(pa, code)
    bench.run(bytes(program) + calibration._INT_55)
    assert bench.recorder.numbers == [0x55]
    assert bench.cpu.registers.edi == expected


def test_cpu_has_no_mappings_that_cannot_be_executed() -> None:
    """Where there are some, plain Unicorn executes stale code, and a guest could tell."""
    cpu_of_guest = Bench().cpu
    cpu_of_guest.write_msr(EFER, EFER_NXE)
    assert not cpu_of_guest.read_msr(EFER) & EFER_NXE


def test_loaded_library_has_the_digests_of_the_table_until_it_is_changed() -> None:
    """Places that no detour touches are never written."""
    loaded = ctypes.CDLL(uclib._name)
    assert is_changed()
    touched = {each.symbol for each in engine.CHANGES.written}
    original = Path(uclib._name).read_bytes()
    for place in engine.CHANGES.places:
        if place.symbol not in touched:
            va = ctypes.cast(getattr(loaded, place.symbol), ctypes.c_void_p).value
            assert va is not None
            assert ctypes.string_at(va, place.length) in original
