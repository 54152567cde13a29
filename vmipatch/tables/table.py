# SPDX-License-Identifier: MIT
"""What is every kernel table once it is understood? Address words, and places in the code."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]

Move = Callable[[U32], U32]
"""A map of linked addresses, old to new, over a whole array at a time."""


class TableName(enum.Enum):
    """The tables we know, under the names of sections or of what they hold."""

    EX_TABLE = "__ex_table"
    KALLSYMS = "kallsyms_offsets"
    KALLSYMS_BASE = "kallsyms_relative_base"
    MCOUNT = "__mcount_loc"
    ALTERNATIVES = ".altinstructions"
    ALTINSTR_REPLACEMENT = ".altinstr_replacement"
    SMP_ALTERNATIVES = ".smp_altinstructions"
    PARAINSTRUCTIONS = ".parainstructions"
    SMP_LOCKS = ".smp_locks"
    BUG_TABLE = "__bug_table"
    INLINE_BUGS = "BUG() in the code"
    JUMP_TABLE = "__jump_table"
    STATIC_CALLS = ".static_call.text"
    INITCALLS = ".initcall.init"
    CON_INITCALLS = ".con_initcall.init"
    SECURITY_INITCALLS = ".security_initcall.init"
    SETUP_PARAMS = ".init.setup"
    MODULE_PARAMS = "__param"
    IOMMU = ".iommu_table"
    CPU_DEVICES = ".x86_cpu_dev.init"
    KPROBE_BLACKLIST = "_kprobe_blacklist"
    FTRACE_EVENTS = "_ftrace_events"
    FTRACE_EVAL_MAPS = "_ftrace_eval_map"
    TRACEPOINTS = "__tracepoints_ptrs"
    TRACEPOINT_ARRAY = "__tracepoints"
    MARKERS = "__markers"
    KSYMTAB = "__ksymtab"
    KSYMTAB_GPL = "__ksymtab_gpl"
    KSYMTAB_UNUSED = "__ksymtab_unused"
    KSYMTAB_UNUSED_GPL = "__ksymtab_unused_gpl"
    KSYMTAB_GPL_FUTURE = "__ksymtab_gpl_future"
    KCRCTAB = "__kcrctab"
    KCRCTAB_GPL = "__kcrctab_gpl"
    KCRCTAB_UNUSED = "__kcrctab_unused"
    KCRCTAB_UNUSED_GPL = "__kcrctab_unused_gpl"
    KCRCTAB_GPL_FUTURE = "__kcrctab_gpl_future"
    PCI_FIXUPS = ".pci_fixup"
    SYSCALLS = "sys_call_table"
    INTERRUPTS = "interrupt"
    PVH_NOTE = ".notes PVH entry"
    RUNTIME_CONSTANTS = "runtime_*"
    IRQ_STUBS = "irq_entries_start"
    SPURIOUS_STUBS = "spurious_entries_start"
    EARLY_STUBS = "early_idt_handler_array"


class WordForm(enum.IntEnum):
    """How a 4-byte word holds an address."""

    ABSOLUTE = 0
    """u32, the address."""
    RELATIVE = 1
    """s32, the address minus that of the word."""
    BRANCH = 2
    """s32, the address minus that of the byte after the word (rel32 of a jmp or call)."""
    BASE_RELATIVE = 3
    """u32, the address minus `Table.base_va`, which moves as other addresses do."""
    PHYSICAL = 4
    """u32, the address minus `Table.base_va`, the constant between linked and physical."""
    VALUE = 5
    """u32 that is not an address, whatever a relocation says: it stays as it is."""
    COPIED_BRANCH = 6
    """rel32 of a jmp that only its copy executes, uncorrected: as BRANCH, and `bias` is how far
    the word lies above its copy, which changes as the two move."""


class Role(enum.IntEnum):
    """The purpose of the address of a word, or of a place in the code."""

    INSTRUCTION = 0
    """An instruction that the kernel looks up or changes."""
    FIXUP = 1
    """Where the page-fault handler continues."""
    REPLACEMENT = 2
    """Code that is copied over an instruction."""
    TARGET = 3
    """Where a patched jump leads."""
    FUNCTION = 4
    """The first instruction of a function that is called through the table."""
    SYMBOL = 5
    """A named address: code, data, or the end of a section."""
    DATA = 6
    """Data: moves only with its section."""
    OPERAND = 7
    """The operand at the end of an instruction, which the kernel overwrites: no instruction begins
    there, and it moves with the one that it belongs to."""


class Order(enum.Enum):
    """The meaning of the order of the entries to the kernel."""

    KEPT = "kept"
    """Entries must stay where they are, or do not care."""
    SORTED = "sorted"
    """Entries are searched by address: they follow it, and are sorted again."""
    NAMED = "named"
    """Entries are sorted by address, and data elsewhere counts on their rank."""


WORD = np.dtype(
    [("va", "<u4"), ("target_va", "<u4"), ("form", "u1"), ("role", "u1"), ("bias", "<u4")]
)
"""One address word: where it is, what it points at, Form, Role, and what is added to the stored
address modulo 2^32 (the flag bits of a jump label's key, the mark of a special fixup)."""

PLACE = np.dtype([("va", "<u4"), ("len", "<u2"), ("role", "u1")])
"""Bytes of code that the kernel reads, copies or overwrites by itself: address, length, Role."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One table, found complete and valid."""

    name: TableName
    layout: str
    """Which of the known layouts it has."""
    start_va: int
    end_va: int
    entries: np.ndarray
    """The entries as stored: a structured array of the layout's dtype."""
    words: np.ndarray
    """Every address word, dtype WORD, by address. Words that hold no address are left out."""
    places: np.ndarray
    """Places in the code, dtype PLACE, in the order of the entries: their bytes and lengths are
    the kernel's business (alternatives have two for each entry: original, replacement)."""
    order: Order = Order.KEPT
    base_va: int = 0
    """The address that BASE_RELATIVE and PHYSICAL words count from."""
    in_code: bool = False
    """The table lies in an executable section: it moves as the code around it does."""

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def address_words(self) -> np.ndarray:
        """The words that hold the address of an instruction or of data."""
        words = self.words
        kept = (words["form"] != WordForm.VALUE) & (words["role"] != Role.OPERAND)
        chosen: np.ndarray = words[kept]
        return chosen

    @property
    def instruction_places(self) -> np.ndarray:
        """The places that begin with an instruction."""
        chosen: np.ndarray = self.places[self.places["role"] != Role.OPERAND]
        return chosen

    @property
    def code_words(self) -> np.ndarray:
        """The words that point at code for certain (neither data nor named addresses)."""
        words = self.address_words
        return words[~np.isin(words["role"], (Role.DATA, Role.SYMBOL))]

    @property
    def operand_words(self) -> np.ndarray:
        """The words that hold the address of an operand inside of an instruction."""
        chosen: np.ndarray = self.words[self.words["role"] == Role.OPERAND]
        return chosen

    def places_of(self, role: Role) -> np.ndarray:
        """The places with one role, in the order of the entries."""
        chosen: np.ndarray = self.places[self.places["role"] == role]
        return chosen


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables of one kernel, at most one of each name."""

    tables: tuple[Table, ...]

    def __iter__(self) -> Iterator[Table]:
        return iter(self.tables)

    def __len__(self) -> int:
        return len(self.tables)

    def get(self, name: TableName) -> Table | None:
        """The table of that name, or None if this kernel has none."""
        return next((t for t in self.tables if t.name is name), None)

    def places(self, name: TableName, role: Role = Role.INSTRUCTION) -> np.ndarray:
        """Places (dtype PLACE) of one table with one role; none if the table is missing."""
        table = self.get(name)
        return np.zeros(0, PLACE) if table is None else table.places_of(role)


def stay(va: U32) -> U32:
    """The map under which nothing moves."""
    return va
