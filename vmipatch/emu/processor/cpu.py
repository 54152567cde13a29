# SPDX-License-Identifier: MIT
"""How is Unicorn made a CPU of a PC?

What was measured of release 2.1.4 and is relied on here:

* The CPU delivers no event by itself: exceptions and software interrupts end in one callback, which
  may change EIP, CPL and the segments directly in the state (`registers`).
* The record of the last exception is never cleared: without `take_exception` the second page fault
  would be reported as a double fault.
* A stop is precise when it is asked for in a callback of an exception, a port, `cpuid` or `rdtsc`,
  or by the block counter. Stops from memory callbacks, other threads or by a time limit are not.
* Writes to code are seen when the guest makes them, not when the host does.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from vmipatch.emu.processor.bits import HFlag
from vmipatch.emu.processor.callbacks import Callbacks, Exit
from vmipatch.emu.processor.contexts import Contexts
from vmipatch.emu.processor.counter import BlockCounter
from vmipatch.emu.processor.data_watches import DataWatch, DataWatches
from vmipatch.emu.processor.deliveries import ALL_VECTORS, Deliveries
from vmipatch.emu.processor.engine import Engine, EngineHook, Watched, exit_of, find_symbol
from vmipatch.emu.processor.intercepts import PAUSE_BIT, SvmExit, intercept_words
from vmipatch.emu.processor.memory import Access, GuestMemory
from vmipatch.emu.processor.outer_kernel import OuterKernel
from vmipatch.emu.processor.registers import RegisterFile
from vmipatch.emu.processor.state import INTERRUPT_REQUEST, StateField
from vmipatch.emu.processor.watches import Watches

PHYSICAL_END: Final = 1 << 40
"""Where the addresses end that page tables of the guest can name."""
CONTROL_PA: Final = 1 << 44
"""A page of the host's own, far beyond what the guest can reach: the VMCB of interrupts."""
_VIRTUAL_INTERRUPT = 0x100
_NMI = 0x200
_VMCB_VECTOR_OFF = 0x64
_VMCB_LEN = 4096


class Cpu:
    """One CPU over a memory."""

    def __init__(
        self,
        memory: GuestMemory,
        cell_va: int,
        callbacks: Callbacks,
        *,
        copy_va: int | None = None,
        keep_gil: bool = True,
    ) -> None:
        """`cell_va`: host address of the i64 that the block counter counts down; `copy_va`: of a
        copy for the guest.

        `keep_gil` saves a third of a microsecond per callback; other threads of the process then
        stand still while the guest runs. Raises EnvironmentProblem if this is not the Unicorn, or
        not the host, that was measured.
        """
        engine = self._engine = Engine(keep_gil=keep_gil)
        self.plain_because = engine.plain_because
        """Why Unicorn's code was left as it is; empty if it was changed."""
        self._memory = memory
        self._callbacks = callbacks
        self.refused_msrs: frozenset[int] = frozenset()
        """Model-specific registers that a deprivileged guest finds missing; Unicorn has them all,
        and at CPL 0 nothing tells when they are read."""
        self._failure: BaseException | None = None
        self._stop_asked = False
        self._state = engine.state
        self.registers = RegisterFile(
            self._state.words, engine.read_eflags, engine.write_control_register
        )
        self._map_memory()
        self.counter = BlockCounter(cell_va, engine.stop_va, engine.state_va, copy_va)
        self.contexts = Contexts(engine.state_va, engine.context_len, engine.forget_addresses)
        self._watches = Watches(engine, self.registers, self._fail)
        self._data_watches: DataWatches | None = None
        self._interrupt = EngineHook.INTERRUPT.of(self._guard(callbacks.on_interrupt, None))
        interrupt_va = ctypes.cast(self._interrupt, ctypes.c_void_p).value or 0
        self._deliveries = Deliveries(interrupt_va, engine.state_va, find_symbol)
        self._add_hooks()
        engine.without_exits()

    def run(self) -> Exit:
        """Execute from EIP until there is a reason to come back.

        Raises whatever a callback raised, and CpuFailed.
        """
        self._stop_asked = False
        self.counter.arm()
        self._deliveries.begin()
        code = self._engine.start(self.registers.eip)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if code:
            vector = self._deliveries.take_back(self._state.words)
            if vector is None:
                return exit_of(code, self.registers.eip)
            self._callbacks.on_interrupt(vector)
            return Exit.STOP
        if self._stop_asked:
            return Exit.STOP
        return Exit.SLICE if self.counter.stopped else Exit.HALT

    def stop(self) -> None:
        """From a callback of an instruction or exception: come back before the next instruction."""
        self._stop_asked = True
        self._engine.stop()

    def flush_tlb(self) -> None:
        """Forget all translations of addresses."""
        self.registers.cr3 = self.registers.cr3

    def forget_page(self, va: int) -> None:
        """Forget the translation of an address, or more than that."""
        if not self._engine.forget_page(va):
            self.flush_tlb()

    def flush_code(self) -> None:
        """Forget all translated code, after the host has written where code was."""
        self._engine.forget_code()

    def take_exception(self) -> bool:
        """For `on_interrupt`: clear the exception; whether it was a software interrupt.

        Of a software interrupt, EIP is after the instruction; of all else, at it.
        """
        words = self._state.words
        software = bool(words[StateField.IS_SOFTWARE >> 2])
        words[StateField.IS_SOFTWARE >> 2] = 0
        words[StateField.OLD_EXCEPTION >> 2] = 0xFFFFFFFF
        return software

    def spend_event(self) -> None:
        """For `on_interrupt`, of a guest at CPL 0: come back if there are too many."""
        if self._deliveries.spend():
            self.stop()

    @property
    def events_spent(self) -> bool:
        """Whether `run` came back because there were too many of them."""
        return self._deliveries.is_spent

    def promise_interrupt(self, vector: int | None) -> None:
        """Take an external interrupt through the IDT as soon as IF allows; None takes it back.

        Only for a guest at CPL 0: the vector's gate and the stack switch are Unicorn's work.
        """
        words = self._state.cpu_words
        index = INTERRUPT_REQUEST >> 2
        if vector is None:
            words[index] &= ~_VIRTUAL_INTERRUPT & 0xFFFFFFFF
            return
        self._vmcb[_VMCB_VECTOR_OFF] = vector
        words[index] |= _VIRTUAL_INTERRUPT

    @property
    def interrupt_promised(self) -> bool:
        """Whether a promised interrupt has not been taken yet."""
        return bool(self._state.cpu_words[INTERRUPT_REQUEST >> 2] & _VIRTUAL_INTERRUPT)

    def promise_nmi(self) -> None:
        """Take a non-maskable interrupt through the IDT, at CPL 0, once none is being served."""
        self._state.cpu_words[INTERRUPT_REQUEST >> 2] |= _NMI

    @property
    def nmi_promised(self) -> bool:
        """Whether a promised non-maskable interrupt has not been taken yet."""
        return bool(self._state.cpu_words[INTERRUPT_REQUEST >> 2] & _NMI)

    def take_nmi_back(self) -> None:
        """Forget the promise of a non-maskable interrupt."""
        self._state.cpu_words[INTERRUPT_REQUEST >> 2] &= ~_NMI & 0xFFFFFFFF

    def intercept(self, exits: frozenset[SvmExit]) -> None:
        """See these instructions at every CPL, as VMEXIT plus the code, EIP at the first prefix.

        Translated code stays: it looks at the bits when it runs.
        """
        words, index = self._state.words, StateField.INTERCEPTS >> 2
        for place, word in enumerate(intercept_words(exits), index):
            words[place] = word
        hflags = self.registers.hflags
        self.registers.hflags = hflags | HFlag.GUEST if exits else hflags & ~int(HFlag.GUEST)

    def intercept_pause(self, wanted: bool) -> None:
        """See PAUSE, or let it pass, after `intercept` has asked for it: at no cost."""
        words, index = self._state.words, StateField.INTERCEPTS >> 2
        words[index] = words[index] | PAUSE_BIT if wanted else words[index] & ~PAUSE_BIT

    def forbid_ring0(self, forbidden: bool = True) -> None:
        """Stop, as at the end of a slice, before anything executes at CPL 0."""
        self.counter.forbid_ring0(forbidden)

    def deliver_alone(
        self, is_on: bool, outer: OuterKernel | None = None, wanted: bytes = ALL_VECTORS
    ) -> None:
        """Deliver exceptions and software interrupts without `on_interrupt`, or with it.

        Only where Unicorn's code is the one that was measured, and only those that are delivered
        as `events` would do it (`deliveries`). `outer`: the guest's kernel, if its ring is 1;
        `wanted`: a bit for each vector that `on_interrupt` gets all the same.
        """
        self._deliveries.switch(is_on and not self.plain_because, outer, wanted)

    def delivered(self) -> dict[tuple[int, bool], int]:
        """How many were delivered so since the last call, as `Deliveries.taken` says."""
        return self._deliveries.taken()

    def answered(self) -> int:
        """How many hypercalls were answered so since the last call (`outer_calls`)."""
        return self._deliveries.answered()

    def read_msr(self, number: int) -> int:
        """A model-specific register; an unknown one is 0."""
        return self._engine.read_msr(number)

    def write_msr(self, number: int, value: int) -> None:
        """Write a model-specific register; an unknown one stays 0."""
        self._engine.write_msr(number, value)

    def load_debug_registers(self, values: Sequence[int]) -> bool:
        """Let breakpoints of instructions hit as DR0 to DR3 and DR7 of these eight say.

        False where the library is not the known one. DR6, `RegisterFile.debug_status`, stays.
        """
        return self._engine.load_debug_registers(values)

    def watch_data(self, watches: Sequence[DataWatch], is_hit: Callable[[bool], bool]) -> None:
        """Ask `is_hit`, from now on, before each access (of a store: True) that may be one of these
        at most four; a stop that is asked for there, with True as the answer, comes before the
        instruction. Needs `hook_data`, once.
        """
        if self._data_watches is None:
            self._data_watches = DataWatches(self._engine.cpu_va, find_symbol, is_hit, self._fail)
        self._data_watches.watch(watches)
        self.look_at_data(bool(watches))

    def hook_data(self) -> None:
        """Between two runs: have loads and stores seen, which makes them slow."""
        data = self._data_watches
        assert data is not None, "watch_data comes first"
        for kind in (EngineHook.LOAD, EngineHook.STORE):
            self._engine.hook(kind, data.code_va, data.control_va)
        self._engine.forget_code()

    def look_at_data(self, wanted: bool) -> None:
        """Look for what `watch_data` has named, or let all pass."""
        if self._data_watches is not None:
            self._data_watches.switch(wanted)

    @property
    def is_software(self) -> bool:
        """As `take_exception`, which it does not replace."""
        return bool(self._state.words[StateField.IS_SOFTWARE >> 2])

    def watch(self, va: int, call: Callable[[], None]) -> Callable[[], None]:
        """Call before each execution of the instruction at `va`; returns what ends that."""
        return self._watches.range(va, va + 1, lambda _: call())

    def watch_range(
        self, start_va: int, end_va: int, call: Callable[[int], None]
    ) -> Callable[[], None]:
        """Call with its address before each instruction in [start_va, end_va) is executed.

        A stop that is asked for there comes before the instruction. Returns what ends the watch.
        """
        return self._watches.range(start_va, end_va, call)

    def watch_all(self, vas: Sequence[int], call: Callable[[int], None]) -> dict[int, Watched]:
        """As `watch`, for many places at once; `call` gets the address. Ended by `end_watch`."""
        return self._watches.all(vas, call)

    def end_watch(self, watched: Iterable[Watched]) -> None:
        """End what `watch_all` began."""
        self._watches.end(watched)

    def on_translated(self, call: Callable[[int, int], None]) -> None:
        """Call with linear address and length of each block that has just been translated.

        A stop that is asked for there comes before the block.
        """
        self._watches.translated(call)

    def _map_memory(self) -> None:
        memory, engine = self._memory, self._engine
        for region in memory.regions():
            host_va = memory.host_va + region.pa
            engine.map_memory(region.pa, region.length, region.access, host_va, code=True)
        for pa, length in memory.holes(PHYSICAL_END):
            self._map_hole(pa, length)
        self._vmcb = mmap.mmap(-1, _VMCB_LEN)
        vmcb_va = ctypes.addressof(ctypes.c_char.from_buffer(self._vmcb))
        engine.map_memory(CONTROL_PA, _VMCB_LEN, Access.READ_WRITE, vmcb_va, code=False)
        index = StateField.VMCB >> 2
        self._state.words[index] = CONTROL_PA & 0xFFFFFFFF
        self._state.words[index + 1] = CONTROL_PA >> 32

    def _map_hole(self, hole_pa: int, length: int) -> None:
        def read(off: int, size: int) -> int:
            try:
                return self._callbacks.on_hole_read(hole_pa + off, size)
            except BaseException as error:
                self._fail(error)
                return 0

        def write(off: int, size: int, value: int) -> None:
            try:
                self._callbacks.on_hole_write(hole_pa + off, size, value)
            except BaseException as error:
                self._fail(error)

        self._engine.map_calls(hole_pa, length, read, write)

    def _add_hooks(self) -> None:
        calls, engine, deliveries = self._callbacks, self._engine, self._deliveries
        engine.hook(EngineHook.INTERRUPT, deliveries.code_va, deliveries.control_va)
        alone = self._guard_alone
        for kind, guarded in (
            (EngineHook.INVALID, self._guard(calls.on_invalid, True)),
            (EngineHook.IN, self._guard_in(calls.on_in)),
            (EngineHook.OUT, self._guard(calls.on_out, None)),
            (EngineHook.CPUID, alone(calls.on_cpuid)),
            (EngineHook.RDTSC, alone(calls.on_rdtsc)),
            (EngineHook.SYSENTER, alone(calls.on_fast_call)),
            (EngineHook.SYSCALL, alone(calls.on_fast_call)),
        ):
            engine.hook(kind, kind.of(guarded))
        engine.hook(EngineHook.BLOCK, self.counter.code_va, self.counter.control_va)

    def _guard(self, call: Callable[..., None], result: Any) -> Callable[..., Any]:
        """`call` without the first and last argument of a C callback, its errors kept."""
        fail = self._fail

        def guarded(_uc: int, *arguments: int) -> Any:
            try:
                call(*arguments[:-1])
            except BaseException as error:
                fail(error)
            return result

        return guarded

    def _guard_alone(self, call: Callable[[], None]) -> Callable[..., int]:
        """The same for an instruction that Unicorn is not to execute itself."""
        fail = self._fail

        def guarded(_uc: int, _data: int) -> int:
            try:
                call()
            except BaseException as error:
                fail(error)
            return 1

        return guarded

    def _guard_in(self, call: Callable[[int, int], int]) -> Callable[..., int]:
        fail = self._fail

        def guarded(_uc: int, port: int, size: int, _data: int) -> int:
            try:
                return call(port, size)
            except BaseException as error:
                fail(error)
                return 0

        return guarded

    def _fail(self, error: BaseException) -> None:
        """Keep the first error for `run`: one that passed through C code would be lost."""
        if self._failure is None:
            self._failure = error
        # One that cannot be delivered is tried for ever, before a stop.
        self.promise_interrupt(None)
        self.stop()
