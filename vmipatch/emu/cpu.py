# SPDX-License-Identifier: MIT
"""How is Unicorn made a CPU of a PC? The only module that knows Unicorn.

What was measured of release 2.1.4 and is relied on here:

* The CPU delivers no event by itself: exceptions and software interrupts end in one callback, which
  may change EIP, CPL and the segments directly in the state (`registers`).
* The record of the last exception is never cleared: without `_forget_exception` the second page
  fault would be reported as a double fault.
* A stop is precise when it is asked for in a callback of an exception, a port, `cpuid` or `rdtsc`,
  or by the block counter. Stops from memory callbacks, other threads or by a time limit are not.
* An address to run `until` is translated through the guest's page tables, which can raise a page
  fault unseen: exits are switched off.
* Writes to code are seen when the guest makes them, not when the host does.

The library's own code is changed in memory, once in a process and before its first CPU, where it is
the one that was measured (`stores`, `exit_checks`).
"""

from __future__ import annotations

import ctypes
import enum
import mmap
import os
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

import unicorn
from unicorn import unicorn_const as uc_const
from unicorn import x86_const
from unicorn.unicorn_py3.unicorn import uclib

from vmipatch.emu import library
from vmipatch.emu.counter import BlockCounter
from vmipatch.emu.exit_checks import EXIT_CHECKS, leave_out
from vmipatch.emu.memory import Access, GuestMemory
from vmipatch.emu.registers import HFlag, RegisterFile
from vmipatch.emu.state import INTERRUPT_REQUEST, Field, StateView, locate
from vmipatch.emu.stores import STORES
from vmipatch.errors import EnvironmentProblem, VmipatchError

UNICORN_VERSION: Final = (2, 1, 4)
PHYSICAL_END: Final = 1 << 40
"""Where the addresses end that page tables of the guest can name."""
CONTROL_PA: Final = 1 << 44
"""A page of the host's own, far behind what the guest can reach: the VMCB of interrupts."""
PLAIN_UNICORN: Final = "VMIPATCH_PLAIN_UNICORN"
"""Environment variable: if it is set and not empty, Unicorn's code stays as it is."""
VMEXIT: Final = 0x100
"""Interrupt numbers from here on are intercepts: VMEXIT plus an exit code of AMD's SVM."""

_BINDING: Final[Any] = unicorn
"""The binding has no types."""
_MODEL: Final = x86_const.UC_CPU_X86_QEMU32
"""Without RDTSCP, RDRAND and RDSEED, which would tell the guest the host's time and dice."""
_FAST_CALLS: Final = (x86_const.UC_X86_INS_SYSENTER, x86_const.UC_X86_INS_SYSCALL)
"""Instructions that no model is without, and that do nothing unless somebody hooks them."""
_FIRST_INTERCEPT = 0x60
_VIRTUAL_INTERRUPT = 0x100
_VMCB_VECTOR_OFF = 0x64
_VMCB_LEN = 4096

CHANGES: Final = STORES + EXIT_CHECKS
"""The changes of Unicorn's code, made together or not at all."""

_V, _U32, _INT = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int
_INTERRUPT = ctypes.CFUNCTYPE(None, _V, _U32, _V)
_INVALID = ctypes.CFUNCTYPE(ctypes.c_bool, _V, _V)
_IN = ctypes.CFUNCTYPE(_U32, _V, _U32, _INT, _V)
_OUT = ctypes.CFUNCTYPE(None, _V, _U32, _INT, _U32, _V)
_INSTRUCTION = ctypes.CFUNCTYPE(_INT, _V, _V)


class Exit(enum.Enum):
    """Why `Cpu.run` came back."""

    SLICE = "the granted slice is used up"
    HALT = "hlt at CPL 0"
    STOP = "a callback asked for it"
    WRITE_PROTECTED = "the guest wrote to a read-only page; EIP is at the instruction"
    NO_CODE = "the guest jumped to where no memory is"
    NO_MEMORY = "the guest used an address that is not even a hole"


class CpuFailed(VmipatchError):
    """Unicorn gave up in a way that no guest should be able to cause."""


class SvmExit(enum.IntEnum):
    """Exit codes of intercepts that work (AMD APM volume 2, appendix C)."""

    SMSW = 0x00  # a read of CR0
    IDTR_READ = 0x66
    GDTR_READ = 0x67
    LDTR_READ = 0x68
    TR_READ = 0x69
    RDTSC = 0x6E
    RDPMC = 0x6F
    PUSHF = 0x70
    POPF = 0x71
    CPUID = 0x72
    IRET = 0x74


class Callbacks(Protocol):
    """What the CPU calls. An exception in one of them ends `run` and leaves it again there."""

    def on_interrupt(self, number: int) -> None:
        """An exception, a software interrupt, or VMEXIT plus an SvmExit."""

    def on_invalid(self) -> None:
        """An undefined instruction, EIP at it."""

    def on_in(self, port: int, size: int) -> int:
        """`in` of `size` bytes, whatever CPL and IOPL are."""

    def on_out(self, port: int, size: int, value: int) -> None:
        """`out` of `size` bytes, whatever CPL and IOPL are."""

    def on_cpuid(self) -> None:
        """`cpuid`: fill the registers."""

    def on_rdtsc(self) -> None:
        """`rdtsc`: fill the registers."""

    def on_fast_call(self) -> None:
        """`sysenter` or `syscall`, which the CPU that is presented does not have."""

    def on_hole_read(self, pa: int, size: int) -> int:
        """A read where no memory is."""

    def on_hole_write(self, pa: int, size: int, value: int) -> None:
        """A write where no memory is."""


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
        _check_version()
        self.plain_because = why_plain()
        """As `why_plain` says."""
        self._memory = memory
        self._callbacks = callbacks
        self.refused_msrs: frozenset[int] = frozenset()
        """Model-specific registers that a deprivileged guest finds missing; Unicorn has them all,
        and at CPL 0 nothing tells when they are read."""
        self._failure: BaseException | None = None
        self._stop_asked = False
        self._kept: list[Any] = []
        self._uc: Any = _BINDING.Uc(uc_const.UC_ARCH_X86, uc_const.UC_MODE_32)
        self._uc.ctl_set_cpu_model(_MODEL)
        self._handle: Any = self._uc._uch
        if not self.plain_because:
            leave_out(self._handle.value)
        library = ctypes.CDLL(uclib._name)
        self._add_hook = library.uc_hook_add
        self._stop = _prototype(library.uc_emu_stop, _V)
        self._reg_read = _prototype(library.uc_reg_read, _V, _INT, _V)
        starter = ctypes.PyDLL(uclib._name) if keep_gil else library
        word = ctypes.c_uint64
        self._start = _prototype(starter.uc_emu_start, _V, word, word, word, ctypes.c_size_t)
        self._value = ctypes.c_uint64()
        self._state = self._find_state()
        self.registers = RegisterFile(
            self._state.words, self._computed_eflags, self._write_control_register
        )
        self._map_memory()
        stop_va = ctypes.cast(library.uc_emu_stop, _V).value
        assert stop_va is not None, "a function has an address"
        state_va = ctypes.addressof(ctypes.c_uint32.from_buffer(self._state.words))
        self.counter = BlockCounter(cell_va, stop_va, state_va, copy_va)
        self._add_hooks()
        self._uc.ctl_exits_enabled(True)

    def run(self) -> Exit:
        """Execute from EIP until there is a reason to come back.

        Raises whatever a callback raised, and CpuFailed.
        """
        self._stop_asked = False
        self.counter.arm()
        code = self._start(self._handle, self.registers.eip, 0, 0, 0)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if code:
            return self._refused(code)
        if self._stop_asked:
            return Exit.STOP
        return Exit.SLICE if self.counter.stopped else Exit.HALT

    def stop(self) -> None:
        """From a callback of an instruction or exception: come back before the next instruction."""
        self._stop_asked = True
        self._stop(self._handle)

    def flush_tlb(self) -> None:
        """Forget all translations of addresses; there is no way to forget a single one."""
        self.registers.cr3 = self.registers.cr3

    def flush_code(self) -> None:
        """Forget all translated code, after the host has written where code was."""
        self._uc.ctl_flush_tb()

    def take_exception(self) -> bool:
        """For `on_interrupt`: clear the exception; whether it was a software interrupt.

        Of a software interrupt, EIP is behind the instruction; of all else, at it.
        """
        words = self._state.words
        software = bool(words[Field.IS_SOFTWARE >> 2])
        words[Field.IS_SOFTWARE >> 2] = 0
        words[Field.OLD_EXCEPTION >> 2] = 0xFFFFFFFF
        return software

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

    def intercept(self, exits: frozenset[SvmExit]) -> None:
        """See these instructions at every CPL, as VMEXIT plus the code, EIP at the first prefix."""
        words = self._state.words
        index = Field.INTERCEPTS >> 2
        bits = sum(1 << (e - _FIRST_INTERCEPT) for e in exits if e >= _FIRST_INTERCEPT)
        words[index], words[index + 1] = bits & 0xFFFFFFFF, bits >> 32
        words[index + 2] = int(SvmExit.SMSW in exits)  # the mask of control registers read
        hflags = self.registers.hflags
        self.registers.hflags = hflags | HFlag.GUEST if exits else hflags & ~int(HFlag.GUEST)
        self.flush_code()

    def forbid_ring0(self) -> None:
        """Stop, as at the end of a slice, before anything executes at CPL 0."""
        self.counter.forbid_ring0()

    def read_msr(self, number: int) -> int:
        """A model-specific register; an unknown one is 0."""
        return int(self._uc.msr_read(number))

    def write_msr(self, number: int, value: int) -> None:
        """Write a model-specific register; an unknown one stays 0."""
        self._uc.msr_write(number, value)

    def watch(self, va: int, call: Callable[[], None]) -> Callable[[], None]:
        """Call before each execution of the instruction at `va`; returns what ends that."""
        return self.watch_range(va, va + 1, lambda _: call())

    def watch_range(
        self, start_va: int, end_va: int, call: Callable[[int], None]
    ) -> Callable[[], None]:
        """Call with its address before each instruction in [start_va, end_va) is executed.

        A stop that is asked for there comes before the instruction. Returns what ends the watch.
        """

        def hooked(_uc: Any, va: int, _length: int, _data: Any) -> None:
            try:
                call(va)
            except BaseException as error:
                self._fail(error)

        kind = uc_const.UC_HOOK_CODE
        hook = self._uc.hook_add(kind, hooked, begin=start_va, end=end_va - 1)
        self.flush_code()
        return lambda: self._uc.hook_del(hook)

    def _find_state(self) -> StateView:
        numbers = (
            x86_const.UC_X86_REG_EAX, x86_const.UC_X86_REG_ECX, x86_const.UC_X86_REG_EDX,
            x86_const.UC_X86_REG_EBX, x86_const.UC_X86_REG_ESP, x86_const.UC_X86_REG_EBP,
            x86_const.UC_X86_REG_ESI, x86_const.UC_X86_REG_EDI,
        )  # fmt: skip

        def write(values: tuple[int, ...]) -> None:
            for number, value in zip(numbers, values, strict=True):
                self._uc.reg_write(number, value)

        return locate(self._handle.value, write)

    def _map_memory(self) -> None:
        memory = self._memory
        for region in memory.regions():
            rights = uc_const.UC_PROT_READ | uc_const.UC_PROT_EXEC
            if region.access is Access.READ_WRITE:
                rights |= uc_const.UC_PROT_WRITE
            self._uc.mem_map_ptr(region.pa, region.length, rights, memory.host_va + region.pa)
        for pa, length in memory.holes(PHYSICAL_END):
            self._map_hole(pa, length)
        self._vmcb = mmap.mmap(-1, _VMCB_LEN)
        rights = uc_const.UC_PROT_READ | uc_const.UC_PROT_WRITE
        vmcb_va = ctypes.addressof(ctypes.c_char.from_buffer(self._vmcb))
        self._uc.mem_map_ptr(CONTROL_PA, _VMCB_LEN, rights, vmcb_va)
        index = Field.VMCB >> 2
        self._state.words[index] = CONTROL_PA & 0xFFFFFFFF
        self._state.words[index + 1] = CONTROL_PA >> 32

    def _map_hole(self, hole_pa: int, length: int) -> None:
        def read(_uc: Any, off: int, size: int, _data: Any) -> int:
            try:
                return self._callbacks.on_hole_read(hole_pa + off, size)
            except BaseException as error:
                self._fail(error)
                return 0

        def write(_uc: Any, off: int, size: int, value: int, _data: Any) -> None:
            try:
                self._callbacks.on_hole_write(hole_pa + off, size, value)
            except BaseException as error:
                self._fail(error)

        self._uc.mmio_map(hole_pa, length, read, None, write, None)

    def _add_hooks(self) -> None:
        calls = self._callbacks
        kinds = uc_const
        self._hook(kinds.UC_HOOK_INTR, _INTERRUPT(self._guard(calls.on_interrupt, None)))
        self._hook(kinds.UC_HOOK_INSN_INVALID, _INVALID(self._guard(calls.on_invalid, True)))
        port_in, port_out = _IN(self._guard_in(calls.on_in)), _OUT(self._guard(calls.on_out, None))
        self._hook(kinds.UC_HOOK_INSN, port_in, x86_const.UC_X86_INS_IN)
        self._hook(kinds.UC_HOOK_INSN, port_out, x86_const.UC_X86_INS_OUT)
        cpuid = _INSTRUCTION(self._guard(calls.on_cpuid, 1))
        self._hook(kinds.UC_HOOK_INSN, cpuid, x86_const.UC_X86_INS_CPUID)
        rdtsc = _INSTRUCTION(self._guard(calls.on_rdtsc, 1))
        self._hook(kinds.UC_HOOK_INSN, rdtsc, x86_const.UC_X86_INS_RDTSC)
        fast_call = _INSTRUCTION(self._guard(calls.on_fast_call, 1))
        for number in _FAST_CALLS:
            self._hook(kinds.UC_HOOK_INSN, fast_call, number)
        self._hook(kinds.UC_HOOK_BLOCK, self.counter.code_va, user_data_va=self.counter.control_va)

    def _hook(
        self, kind: int, callback: Any, instruction: int | None = None, user_data_va: int = 0
    ) -> None:
        """Register a C callback: two to three times cheaper per call than the binding's way."""
        self._kept.append(callback)
        word = ctypes.c_uint64
        arguments = [
            self._handle, ctypes.byref(ctypes.c_size_t()), _INT(kind),
            ctypes.cast(callback, _V), _V(user_data_va), word(1), word(0),
        ]  # fmt: skip
        if instruction is not None:
            arguments.append(_INT(instruction))
        _check(self._add_hook(*arguments))

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
        self.stop()

    def _computed_eflags(self) -> int:
        _check(
            self._reg_read(self._handle, x86_const.UC_X86_REG_EFLAGS, ctypes.addressof(self._value))
        )
        return self._value.value & 0xFFFFFFFF

    def _write_control_register(self, number: int, value: int) -> None:
        self._uc.reg_write(x86_const.UC_X86_REG_CR0 + number, value)

    def _refused(self, code: int) -> Exit:
        if code == uc_const.UC_ERR_WRITE_PROT:
            return Exit.WRITE_PROTECTED
        if code in (uc_const.UC_ERR_FETCH_PROT, uc_const.UC_ERR_FETCH_UNMAPPED):
            return Exit.NO_CODE
        if code in (uc_const.UC_ERR_READ_UNMAPPED, uc_const.UC_ERR_WRITE_UNMAPPED):
            return Exit.NO_MEMORY
        raise CpuFailed(
            f"the emulated CPU gave up: {_BINDING.UcError(code)}",
            place=f"EIP {self.registers.eip:#x}",
            hint="the guest did something that the emulator does not model",
        )


_changing = threading.Lock()
_why_plain: list[str] = []


def why_plain() -> str:
    """Change Unicorn's code, at the first call in a process.

    Returns why it was left as it is; an empty string if it was changed.
    """
    with _changing:
        if not _why_plain:
            _why_plain.append(_change())
        return _why_plain[0]


def _change() -> str:
    if os.environ.get(PLAIN_UNICORN):
        return f"{PLAIN_UNICORN} is set"
    code = ctypes.CDLL(uclib._name)

    def find(symbol: str) -> int | None:
        return ctypes.cast(getattr(code, symbol), _V).value if hasattr(code, symbol) else None

    return library.apply(CHANGES, find)


def _check_version() -> None:
    found = _BINDING.__version__
    if tuple(int(part) for part in found.split(".")[:3]) != UNICORN_VERSION:
        wanted = ".".join(map(str, UNICORN_VERSION))
        raise EnvironmentProblem(
            f"this is Unicorn {found}, the emulator knows {wanted} alone",
            hint=f"pip install unicorn=={wanted}, in an environment of its own",
        )


def _prototype(function: Any, *arguments: Any) -> Any:
    function.argtypes = arguments
    function.restype = _INT
    return function


def _check(code: int) -> None:
    if code:
        raise CpuFailed(f"Unicorn refused a call: {_BINDING.UcError(code)}")
