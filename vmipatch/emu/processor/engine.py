# SPDX-License-Identifier: MIT
"""How is Unicorn called? The only module that knows the library.

What was measured of release 2.1.4 and is relied on here:

* An address to run `until` is translated through the guest's page tables, which can raise a page
  fault unseen: exits are switched off.
* C callbacks of our own cost a half to a third of the binding's.
* A control register that is written through the API flushes what has to be flushed.

The library's own code is changed in memory, once in a process and before its first instance, where
it is the one that was measured (`stores`, `exit_checks`).
"""

from __future__ import annotations

import ctypes
import enum
import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import unicorn
from unicorn import unicorn_const as uc_const
from unicorn import x86_const
from unicorn.unicorn_py3.unicorn import uclib

from vmipatch.emu.processor import library
from vmipatch.emu.processor.callbacks import Exit
from vmipatch.emu.processor.data_watches import PLACES as DATA_PLACES
from vmipatch.emu.processor.debug_registers import LOAD_DR7
from vmipatch.emu.processor.debug_registers import PLACES as DEBUG_PLACES
from vmipatch.emu.processor.deliveries import PLACES
from vmipatch.emu.processor.exit_checks import EXIT_CHECKS, leave_out
from vmipatch.emu.processor.memory import Access
from vmipatch.emu.processor.outer_calls import FORGET_PAGE
from vmipatch.emu.processor.outer_calls import PLACES as CALL_PLACES
from vmipatch.emu.processor.state import StateField, StateView, locate
from vmipatch.emu.processor.stores import STORES
from vmipatch.errors import EnvironmentProblem, VmipatchError

UNICORN_VERSION: Final = (2, 1, 4)
PLAIN_UNICORN: Final = "VMIPATCH_PLAIN_UNICORN"
"""Environment variable: if it is set and not empty, Unicorn's code stays as it is."""
CHANGES: Final = STORES + EXIT_CHECKS
"""The changes of Unicorn's code, made together or not at all."""

_BINDING: Final[Any] = unicorn
"""The binding has no types."""
_MODEL: Final = x86_const.UC_CPU_X86_QEMU32
"""Without RDTSCP, RDRAND and RDSEED, which would tell the guest the host's time and dice."""
_FLUSH_TLB = uc_const.UC_CTL_IO_WRITE << 30 | uc_const.UC_CTL_TLB_FLUSH
_V, _U32, _INT = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int

Watched = ctypes.c_size_t
"""A hook by the name that Unicorn gave it."""


class _Block(ctypes.Structure):
    """uc_tb of unicorn.h: a block of translated code."""

    _fields_ = (
        ("pc", ctypes.c_uint64), ("icount", ctypes.c_uint16), ("size", ctypes.c_uint16),
    )  # fmt: skip


class CpuFailed(VmipatchError):
    """Unicorn gave up in a way that no guest should be able to cause."""


class EngineHook(enum.Enum):
    """Where the library calls: kind of hook, its instruction if it is of one, C prototype.

    The first argument is always the instance, the last one the user data.
    """

    INTERRUPT = uc_const.UC_HOOK_INTR, None, ctypes.CFUNCTYPE(None, _V, _U32, _V)
    INVALID = uc_const.UC_HOOK_INSN_INVALID, None, ctypes.CFUNCTYPE(ctypes.c_bool, _V, _V)
    IN = (
        uc_const.UC_HOOK_INSN,
        x86_const.UC_X86_INS_IN,
        ctypes.CFUNCTYPE(_U32, _V, _U32, _INT, _V),
    )
    OUT = (
        uc_const.UC_HOOK_INSN,
        x86_const.UC_X86_INS_OUT,
        ctypes.CFUNCTYPE(None, _V, _U32, _INT, _U32, _V),
    )
    CPUID = uc_const.UC_HOOK_INSN, x86_const.UC_X86_INS_CPUID, ctypes.CFUNCTYPE(_INT, _V, _V)
    RDTSC = uc_const.UC_HOOK_INSN, x86_const.UC_X86_INS_RDTSC, ctypes.CFUNCTYPE(_INT, _V, _V)
    # No model is without these two, and they do nothing unless somebody hooks them.
    SYSENTER = uc_const.UC_HOOK_INSN, x86_const.UC_X86_INS_SYSENTER, ctypes.CFUNCTYPE(_INT, _V, _V)
    SYSCALL = uc_const.UC_HOOK_INSN, x86_const.UC_X86_INS_SYSCALL, ctypes.CFUNCTYPE(_INT, _V, _V)
    BLOCK = (
        uc_const.UC_HOOK_BLOCK,
        None,
        ctypes.CFUNCTYPE(None, _V, ctypes.c_uint64, _U32, _V),
    )
    CODE = uc_const.UC_HOOK_CODE, None, ctypes.CFUNCTYPE(None, _V, ctypes.c_uint64, _U32, _V)
    # Calls with kind, address, length and value.
    LOAD = uc_const.UC_HOOK_MEM_READ, None, None
    STORE = uc_const.UC_HOOK_MEM_WRITE, None, None
    TRANSLATED = (
        uc_const.UC_HOOK_EDGE_GENERATED,
        None,
        ctypes.CFUNCTYPE(None, _V, ctypes.POINTER(_Block), ctypes.POINTER(_Block), _V),
    )

    def of(self, call: Callable[..., Any]) -> Any:
        """`call` as a C function; keep it as long as the library may call it."""
        return self.value[2](call)


class Engine:
    """One instance of the library."""

    def __init__(self, *, keep_gil: bool) -> None:
        """Raises EnvironmentProblem if this is not the Unicorn that was measured."""
        _check_version()
        self.plain_because = why_plain()
        """As `why_plain` says."""
        self._kept: list[Any] = []
        self._uc: Any = _BINDING.Uc(uc_const.UC_ARCH_X86, uc_const.UC_MODE_32)
        self._uc.ctl_set_cpu_model(_MODEL)
        self._handle: Any = self._uc._uch
        if not self.plain_because:
            leave_out(self._handle.value)
        code = ctypes.CDLL(uclib._name)
        self._add_hook = code.uc_hook_add
        self._delete_hook = _prototype(code.uc_hook_del, _V, ctypes.c_size_t)
        self._stop = _prototype(code.uc_emu_stop, _V)
        self._reg_read = _prototype(code.uc_reg_read, _V, _INT, _V)
        self._control = _prototype(code.uc_ctl, _V, _INT)
        starter = ctypes.PyDLL(uclib._name) if keep_gil else code
        word = ctypes.c_uint64
        self._start = _prototype(starter.uc_emu_start, _V, word, word, word, ctypes.c_size_t)
        self._value = ctypes.c_uint64()
        self.state: StateView = self._find_state()
        """The CPU's registers."""
        self.cpu_va = ctypes.addressof(ctypes.c_uint32.from_buffer(self.state.cpu_words))
        """Host address of CPUState."""
        self.state_va = ctypes.addressof(ctypes.c_uint32.from_buffer(self.state.words))
        code.uc_context_size.argtypes, code.uc_context_size.restype = (_V,), ctypes.c_size_t
        self.context_len = int(code.uc_context_size(self._handle))
        """Bytes of a uc_context."""
        stop_va = find_symbol("uc_emu_stop")
        assert stop_va is not None, "a function has an address"
        self.stop_va = stop_va
        """Host address of what `stop` calls."""

    def start(self, eip: int) -> int:
        """Run until something stops it; 0, or an error for `exit_of`."""
        return int(self._start(self._handle, eip, 0, 0, 0))

    def stop(self) -> None:
        """Ask for a stop."""
        self._stop(self._handle)

    def without_exits(self) -> None:
        """Run to no address in particular; once, after all hooks."""
        self._uc.ctl_exits_enabled(True)

    def hook(
        self, kind: EngineHook, callback: Any, data_va: int = 0, bounds: tuple[int, int] = (1, 0)
    ) -> Watched:
        """Let the library call a C function, or code of ours at an address.

        `bounds`: first and last address where it is called, everywhere unless given.
        """
        self._kept.append(callback)
        number, instruction, _ = kind.value
        hook = ctypes.c_size_t()
        arguments = [
            self._handle, ctypes.byref(hook), _INT(number),
            ctypes.cast(callback, _V), _V(data_va), *map(ctypes.c_uint64, bounds),
        ]  # fmt: skip
        if instruction is not None:
            arguments.append(_INT(instruction))
        _check(self._add_hook(*arguments))
        return hook

    def unhook(self, hook: Watched) -> None:
        """End what `hook` began."""
        _check(self._delete_hook(self._handle, hook))

    def map_memory(self, pa: int, length: int, access: Access, host_va: int, code: bool) -> None:
        """Let host memory be the guest's; `code`: whether it may be executed."""
        rights = uc_const.UC_PROT_READ
        if code:
            rights |= uc_const.UC_PROT_EXEC
        if access is Access.READ_WRITE:
            rights |= uc_const.UC_PROT_WRITE
        self._uc.mem_map_ptr(pa, length, rights, host_va)

    def map_calls(
        self,
        pa: int,
        length: int,
        read: Callable[[int, int], int],
        write: Callable[[int, int, int], None],
    ) -> None:
        """Let accesses call; both get the offset and the bytes, `write` the value too."""

        def on_read(_uc: Any, off: int, size: int, _data: Any) -> int:
            return read(off, size)

        def on_write(_uc: Any, off: int, size: int, value: int, _data: Any) -> None:
            write(off, size, value)

        self._uc.mmio_map(pa, length, on_read, None, on_write, None)

    def forget_addresses(self) -> None:
        """Forget all translations of addresses, between two runs only."""
        _check(self._control(self._handle, _FLUSH_TLB))

    def forget_page(self, va: int) -> bool:
        """Forget the translation of one address; False where only all can be forgotten."""
        forget = _page_forgetter()
        if forget is None:
            return False
        forget(self.cpu_va, va)
        return True

    def load_debug_registers(self, values: Sequence[int]) -> bool:
        """As `mov` to DR0 to DR3 and DR7 at CPL 0; False where the library is not the known one."""
        update = _debug_loader()
        if update is None:
            return False
        words, first = self.state.words, StateField.DR >> 2
        update(self.state_va, 0)
        for number in range(4):
            words[first + 2 * number] = values[number]
        update(self.state_va, values[7])
        return True

    def forget_code(self) -> None:
        """Forget all translated code."""
        self._uc.ctl_flush_tb()

    def read_msr(self, number: int) -> int:
        """A model-specific register; an unknown one is 0."""
        return int(self._uc.msr_read(number))

    def write_msr(self, number: int, value: int) -> None:
        """Write a model-specific register; an unknown one stays 0."""
        self._uc.msr_write(number, value)

    def read_eflags(self) -> int:
        """EFLAGS, the lazy ones computed."""
        place = ctypes.addressof(self._value)
        _check(self._reg_read(self._handle, x86_const.UC_X86_REG_EFLAGS, place))
        return self._value.value & 0xFFFFFFFF

    def write_control_register(self, number: int, value: int) -> None:
        """Write a control register, with all that follows from it."""
        self._uc.reg_write(x86_const.UC_X86_REG_CR0 + number, value)

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


def exit_of(code: int, eip: int) -> Exit:
    """Why the library came back with an error. Raises CpuFailed for one that is not the guest's."""
    if code == uc_const.UC_ERR_WRITE_PROT:
        return Exit.WRITE_PROTECTED
    if code in (uc_const.UC_ERR_FETCH_PROT, uc_const.UC_ERR_FETCH_UNMAPPED):
        return Exit.NO_CODE
    if code in (uc_const.UC_ERR_READ_UNMAPPED, uc_const.UC_ERR_WRITE_UNMAPPED):
        return Exit.NO_MEMORY
    raise CpuFailed(
        f"the emulated CPU gave up: {_BINDING.UcError(code)}",
        place=f"EIP {eip:#x}",
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
    return library.unknown(PLACES, find_symbol) or library.apply(CHANGES, find_symbol)


@functools.cache
def _page_forgetter() -> Any:
    """The library's function for that, of a CPUState and an address, where it is the known one."""
    if library.unknown(CALL_PLACES, find_symbol):
        return None
    return ctypes.PYFUNCTYPE(None, _V, ctypes.c_uint64)(find_symbol(FORGET_PAGE) or 0)


@functools.cache
def _debug_loader() -> Any:
    """The library's function that loads DR7 of a CPUX86State, where it is the known one."""
    if library.unknown((*DEBUG_PLACES, *DATA_PLACES), find_symbol):
        return None
    return ctypes.PYFUNCTYPE(None, _V, _U32)(find_symbol(LOAD_DR7) or 0)


def find_symbol(symbol: str) -> int | None:
    """Host address of an exported function of the library."""
    code = ctypes.CDLL(uclib._name)
    return ctypes.cast(getattr(code, symbol), _V).value if hasattr(code, symbol) else None


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
