# SPDX-License-Identifier: MIT
"""Where does the CPU stop? Each way to ask for it, in the middle of a block with loads and stores.

`python -m tests.emu.processor.stops` prints a line for each: name, and at each stop why, EIP,
registers, data and blocks.
A process of its own, since the code of Unicorn is changed once for a whole process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vmipatch.emu.processor.bench import CODE_PA, Bench, Recorder
from vmipatch.emu.processor.callbacks import Exit
from vmipatch.emu.processor.memory import MIN_RAM_LEN, Access, GuestMemory

DATA_PA: Final = 0x6000
READ_ONLY_PA: Final = 0xC8000
AFTER: Final = bytes.fromhex(
    "40"  # inc eax
    "ff0500600000"  # inc dword [0x6000]
    "43"  # inc ebx
    "a104600000"  # mov eax, [0x6004]
    "890d08600000"  # mov [0x6008], ecx
    "ff35 00600000"  # push dword [0x6000]
    "cd55"
)
INC_MANY: Final = bytes.fromhex("ff0500600000") * 640
"""More than 4,000 operations of the translator: it ends blocks in the middle."""


@dataclass(slots=True)
class Stopping(Recorder):
    """Stops at every call; fails in holes."""

    calls: list[str] = field(default_factory=list)

    def _stop(self, name: str) -> None:
        assert self.cpu is not None, "set before the CPU runs"
        self.calls.append(name)
        self.cpu.stop()

    def on_in(self, port: int, size: int) -> int:
        self._stop("in")
        return 0x5A

    def on_out(self, port: int, size: int, value: int) -> None:
        self._stop("out")

    def on_cpuid(self) -> None:
        self._stop("cpuid")

    def on_rdtsc(self) -> None:
        self._stop("rdtsc")

    def on_fast_call(self) -> None:
        self._stop("fast call")

    def on_invalid(self) -> None:
        self._stop("invalid")

    def on_hole_write(self, pa: int, size: int, value: int) -> None:
        raise ValueError(pa)

    def on_interrupt(self, number: int) -> None:
        self.numbers.append(number)
        assert self.cpu is not None, "set before the CPU runs"
        self.cpu.take_exception()
        self._stop("interrupt")


PROGRAMS: Final = {
    "out": bytes.fromhex("89c9ff0500600000e680") + AFTER,
    "out dx": bytes.fromhex("ff0500600000ef") + AFTER,
    "in": bytes.fromhex("8b0d00600000e580") + AFTER,
    "in dx": bytes.fromhex("8b0d00600000ec") + AFTER,
    "outs": bytes.fromhex("be00600000b9030000006e") + AFTER,
    "rep outs": bytes.fromhex("be00600000b903000000f36e") + AFTER,
    "ins": bytes.fromhex("bf106000006c") + AFTER,
    "rep ins": bytes.fromhex("bf10600000b903000000f36c") + AFTER,
    "cpuid": bytes.fromhex("ff05006000000fa2") + AFTER,
    "rdtsc": bytes.fromhex("ff05006000000f31") + AFTER,
    "sysenter": bytes.fromhex("ff05006000000f34") + AFTER,
    "syscall": bytes.fromhex("ff05006000000f05") + AFTER,
    "undefined": bytes.fromhex("ff05006000000f0b") + AFTER,
    "interrupt": bytes.fromhex("ff0500600000cd55") + AFTER,
    "two": bytes.fromhex("e680ff05006000000f31") + AFTER,
    "read-only": bytes.fromhex("ff0500600000c70504800c0044332211") + AFTER,
    "read-only push": bytes.fromhex("bcfc8f0c0050") + AFTER,
    "read-only call": bytes.fromhex("bcfc8f0c00e800000000") + AFTER,
    "read-only inc": bytes.fromhex("fe0504800c00") + AFTER,
    "read-only fxsave": bytes.fromhex("0fae0500800c00") + AFTER,
    "read-only fstp": bytes.fromhex("d9e8db3d00800c00") + AFTER,
    "read-only cmpxchg8b": bytes.fromhex("0fc70d00800c00") + AFTER,
    "read-only lock inc": bytes.fromhex("f0ff0500800c00") + AFTER,
    "read-only movs": bytes.fromhex("be00600000bf00800c00a5") + AFTER,
    "read-only rep stos": bytes.fromhex("b903000000bf00800c00f3ab") + AFTER,
    "read-only sgdt": bytes.fromhex("0f010500800c00") + AFTER,
    "error in a hole": bytes.fromhex("ff0500600000a300800b00") + AFTER,
    "hlt": bytes.fromhex("ff0500600000f4"),
    "nothing": AFTER,
    "many operations": INC_MANY + bytes.fromhex("cd55"),
    "loop": bytes.fromhex("ff0500600000ebf8"),
}


def main() -> None:
    """Print all of it."""
    for name, code in PROGRAMS.items():
        _report(name, code, lambda bench: None)
    watched = CODE_PA + 8
    code = bytes.fromhex("ff050060000040") + b"\x43" + AFTER
    _report("watch", code, lambda bench: bench.cpu.watch(watched, bench.cpu.stop))
    _report("watch a store", AFTER, lambda bench: bench.cpu.watch(0x1001, bench.cpu.stop))


def _report(name: str, code: bytes, prepare: Callable[[Bench], object]) -> None:
    recorder = Stopping()
    memory = GuestMemory(MIN_RAM_LEN)
    memory.plug(READ_ONLY_PA, bytes(0x1000), Access.READ_ONLY)
    bench = Bench(memory, recorder)
    prepare(bench)
    bench.cpu.registers.eax = bench.cpu.registers.ebx = bench.cpu.registers.ecx = 0
    steps = [_state(bench, _run(lambda: bench.run(code)))]
    for _ in range(2):  # and go on from there
        bench.clock.grant_slice()
        steps.append(_state(bench, _run(bench.cpu.run)))
    print(f"{name}: {' | '.join(steps)}; {' '.join(recorder.calls)}")


def _run(go: Callable[[], Exit]) -> str:
    try:
        return go().name
    except ValueError as error:
        return f"ERROR({error})"


def _state(bench: Bench, exit_: str) -> str:
    registers = bench.cpu.registers
    values = [registers.eip, *(registers.gpr(i) for i in range(8))]
    data = bench.memory.read(DATA_PA, 32).hex()
    return f"{exit_} {' '.join(map(hex, values))} {data} {bench.cpu.counter.blocks}"


if __name__ == "__main__":
    main()
