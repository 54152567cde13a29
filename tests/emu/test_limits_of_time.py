# SPDX-License-Identifier: MIT
"""Does a run end at its limits, and when the user gives up, whatever the guest or a device does?"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest

from tests.cli.commands import ENVIRONMENT
from tests.cli.test_interrupt import HEEDING_INTERRUPTS, PATIENCE_S
from tests.emu.guest import IDT_OFF, TABLES_PA, EndedGuest, Gate, Guest
from tests.emu.ring1_guest import INIT, OPTIONS, ModeGuest, call_rom, entry_words
from tests.emu.test_run_command import write_kernel
from vmipatch.choices import Mode
from vmipatch.cli.main import INTERRUPTED
from vmipatch.emu import watchdog
from vmipatch.emu.hooks import Hooks
from vmipatch.emu.hypervisor import deprivileged, hypercalls
from vmipatch.emu.machine import Machine
from vmipatch.emu.processor import deliveries
from vmipatch.emu.report import Ending
from vmipatch.vmi.calls import VmiCall as C

TABLE_PA, ALIAS_PA, DIRECTORY_PA, SPARE_PA = 0x200000, 0x202000, 0x201000, 0x300000
HANDLER_VA = 0x40000000
STORM = f"""
    mov edi, {TABLE_PA}
    mov eax, 7
low:
    mov [edi], eax
    add edi, 4
    add eax, 0x1000
    cmp eax, 0x400000
    jb low
    mov edi, {ALIAS_PA}
    mov eax, {SPARE_PA + 7}
alias:
    mov [edi], eax
    add edi, 4
    cmp edi, {ALIAS_PA + 0x1000}
    jb alias
    mov edi, {DIRECTORY_PA}
    mov eax, {ALIAS_PA + 7}
high:
    mov [edi], eax
    add edi, 4
    cmp edi, {DIRECTORY_PA + 0x1000}
    jb high
    mov dword ptr [{DIRECTORY_PA}], {TABLE_PA + 7}
    mov dword ptr [{DIRECTORY_PA + (HANDLER_VA >> 20)}], 0
    mov eax, {DIRECTORY_PA}
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
    mov dword ptr [{TABLES_PA + IDT_OFF + 8 * 14}], 0x00080000
    mov dword ptr [{TABLES_PA + IDT_OFF + 8 * 14 + 4}], {HANDLER_VA | 0x8E00}
    mov esp, 0xfffffff0
    mov eax, [{HANDLER_VA}]
"""
"""Page faults without a single instruction in between: the handler is not mapped, and the stack
goes down through a gigabyte and more, all of it one page of memory.
"""
SPIN = "here: jmp here"
GUESTS = {
    "storm": STORM,
    "one block": SPIN,
    "repeated": "mov ecx, -1\n mov edi, 0x200000\n rep lodsb",
}


def guest_of(source: str, mode: Mode, prepare: Callable[[Machine], None] = lambda _: None) -> Guest:
    start = INIT if mode.has_rom else ""
    return ModeGuest(start + source, {14: Gate("begin")}, prepare=prepare, mode=mode)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", GUESTS)
def test_real_time_ends_the_run(name: str, mode: Mode) -> None:
    run = guest_of(GUESTS[name], mode).run(replace(OPTIONS, limit_ns=None, timeout_s=0.2))
    assert (run.result.ending, run.result.details) == (Ending.TIMEOUT, "0.2 s, --timeout")


@pytest.mark.parametrize("mode", list(Mode))
def test_time_passes_for_a_guest_that_executes_nothing(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Python, which a hook lets in, as without: the same counts."""
    monkeypatch.setattr(deliveries, "PATIENCE", 500)
    monkeypatch.setattr(deprivileged, "_PATIENCE", 500)

    def watch(machine: Machine) -> None:
        machine.watch(Hooks(on_interrupt=lambda number: None))

    options = replace(OPTIONS, limit_ns=3_000_000)
    runs = [guest_of(STORM, mode, prepare).run(options) for prepare in (lambda _: None, watch)]
    assert runs[0].result == runs[1].result
    assert runs[0].result.ending is Ending.LIMIT
    assert runs[0].result.statistics.vectors[14] > 1000


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_S", 0.1)


class Endless:
    """A device that never answers."""

    def read(self, port: int, size: int) -> int:
        while True:
            pass

    def write(self, port: int, size: int, value: int) -> None:
        self.read(port, size)


def in_time(guest: Guest) -> EndedGuest:
    begun_s = time.monotonic()
    run = guest.run(replace(OPTIONS, limit_ns=None, timeout_s=0.1))
    assert time.monotonic() - begun_s < PATIENCE_S
    assert run.result.ending is Ending.TIMEOUT, run.result
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    return run


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("access", ["in al, 0x80", "out 0x80, al"])
def test_device_that_does_not_end(access: str, mode: Mode) -> None:
    in_time(guest_of(access, mode, lambda machine: _attach(machine, Hooks(ports=Endless()))))


@pytest.mark.usefixtures("_soon")
def test_alarm_that_does_not_end() -> None:
    def prepare(machine: Machine) -> None:
        machine.clock.at(1000, lambda: _forever(None))

    in_time(guest_of(SPIN, Mode.NATIVE, prepare))


@pytest.mark.usefixtures("_soon")
def test_hypercall_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hypercalls.CALLS, C.WBINVD, _forever)
    in_time(guest_of(f"{call_rom(C.WBINVD)}\n {entry_words(C.WBINVD)}", Mode.PARAVIRT))


def test_timer_of_the_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who uses the signal keeps it; the limit holds between slices all the same."""

    def own(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("not in this test")

    signal.signal(signal.SIGALRM, own)
    try:
        run = guest_of(SPIN, Mode.NATIVE).run(replace(OPTIONS, limit_ns=None, timeout_s=0.1))
        assert run.result.ending is Ending.TIMEOUT
        assert signal.getsignal(signal.SIGALRM) is own
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_other_threads_have_the_limit_between_slices() -> None:
    endings: list[Ending] = []

    def work() -> None:
        run = guest_of(STORM, Mode.NATIVE).run(replace(OPTIONS, limit_ns=None, timeout_s=0.1))
        endings.append(run.result.ending)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE_S)
    assert endings == [Ending.TIMEOUT]


READY = "mov edx, 0x3f8\n mov al, 0x0a\n out dx, al\n"
FLAT = """
    lgdt [gdtr]
    lidt [idtr]
    mov eax, 16
    mov ss, ax
    mov ds, ax
    mov es, ax
"""
TABLES = """
    .p2align 3
gdt: .long 0, 0, 0x0000ffff, 0x00cf9b00, 0x0000ffff, 0x00cf9300
gdtr: .short 23
    .long gdt
idtr: .short 0x7ff
    .long 0x110100
"""


@pytest.mark.parametrize("source", [SPIN, STORM])
def test_interrupt_from_the_keyboard_ends_the_run(tmp_path: Path, source: str) -> None:
    kernel = write_kernel(tmp_path / "vmlinux", f"{FLAT} {READY} {source}\n {TABLES}")
    with subprocess.Popen(
        [sys.executable, "-c", HEEDING_INTERRUPTS, "run", "--native", "--memory", "8", str(kernel)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == INTERRUPTED
    assert talk.strip().splitlines() == ["vmipatch: interrupted"]


def _attach(machine: Machine, hooks: Hooks) -> None:
    machine.watch(hooks)


def _forever(_: object) -> None:
    while True:
        pass
