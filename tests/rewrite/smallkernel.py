# SPDX-License-Identifier: MIT
"""How does a test write a kernel of a few dozen instructions and look at what became of it?

    kernel = SmallKernel()
    kernel.text.function("f", "fa", Branch("e8", "g"), "c3")
    kernel.text.function("g", "fb c3")
    done = kernel.rewrite()
    assert done.code("f", 6) == bytes.fromhex("3e3e3e3efa e8")

Code is hexadecimal with references in between. Labels that begin with `.L` stay out of the symbol
table, as an assembler leaves them out: words that refer to them name the section.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.support.elfbuilder import DATA, PAGE_OFFSET, RODATA, STB_LOCAL, TEXT, ElfBuilder
from tests.support.nobits import without_bytes
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, R_386_PC32
from vmipatch.image.symbols import STT_FUNC, STT_NOTYPE, STT_SECTION
from vmipatch.image.types import SectionFlag
from vmipatch.rewrite import RewriteOptions, RewrittenImage, rewrite

TEXT_VA, RODATA_VA, DATA_VA = 0xC1000000, 0xC1010000, 0xC1020000
INIT_TEXT_VA, INIT_DATA_VA = 0xC1030000, 0xC1040000
PAGE = 0x1000
ROOM_FOR_ALL = 0x4010
"""Filler that takes up any growth of a small kernel, and the room the rewriter keeps."""
INT3 = b"\xcc"


@dataclass(frozen=True, slots=True)
class Word:
    """An absolute word: symbol plus addend, minus the page offset if physical."""

    symbol: str
    addend: int = 0
    physical: bool = False
    named: str | None = None
    """The symbol that the relocation names, if the build has spoilt it."""
    relocated: bool = True


@dataclass(frozen=True, slots=True)
class Distance:
    """A word that holds symbol plus addend minus its own address."""

    symbol: str
    addend: int = 0
    relocated: bool = True
    named: str | None = None
    """The symbol that the relocation names, if the build has spoilt it."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch with 32 bits of displacement, relocated as linkers leave it."""

    opcode: str
    target: str


@dataclass(frozen=True, slots=True)
class Short:
    """A branch with 8 bits of displacement."""

    opcode: str
    target: str


Part = str | bytes | Word | Distance | Branch | Short


@dataclass(slots=True)
class Block:
    """One section under construction."""

    kernel: SmallKernel
    name: str
    va: int
    flags: SectionFlag
    alignment: int = 4
    data: bytearray = field(default_factory=bytearray)
    open: list[tuple[int, Part]] = field(default_factory=list)
    """References yet to be filled in: address of the word or byte, and what it refers to."""

    @property
    def end_va(self) -> int:
        """Where the next byte goes."""
        return self.va + len(self.data)

    def put(self, *parts: Part) -> int:
        """Append bytes and references; returns the address of the first."""
        start_va = self.end_va
        for part in parts:
            match part:
                case str():
                    self.data += bytes.fromhex(part)
                case bytes():
                    self.data += part
                case Branch(opcode) | Short(opcode):
                    self.data += bytes.fromhex(opcode)
                    self._refer(part, 4 if isinstance(part, Branch) else 1)
                case Word() | Distance():
                    self._refer(part, 4)
        return start_va

    def _refer(self, part: Part, length: int) -> None:
        self.open.append((self.end_va, part))
        self.data += bytes(length)

    def label(self, name: str, kind: int = STT_NOTYPE, size: int = 0) -> None:
        """Name the place of the next byte."""
        self.kernel.labels[name] = (self.end_va, kind, size)

    def align(self, unit: int, filler: bytes = b"\x90") -> None:
        """Fill up to a multiple of `unit`."""
        self.data += filler * (-len(self.data) % unit)

    def function(self, name: str, *parts: Part, align: int = 16, filler: bytes = b"\x90") -> int:
        """Append an aligned function with its symbol; returns its address."""
        self.align(align, filler)
        start_va = self.put(*parts)
        self.kernel.labels[name] = (start_va, STT_FUNC, self.end_va - start_va)
        return start_va


class SmallKernel:
    """Sections, labels and references; begins with head code that switches paging on."""

    def __init__(self, *, room: bool = True) -> None:
        """With `room`, .text has filler enough that nothing after it need move."""
        self.labels: dict[str, tuple[int, int, int]] = {}
        self.entry = "startup_32"
        self.is_entered = True
        self.zeros: list[str] = []
        """Sections whose zeros are in the file though they are called NOBITS."""
        self.absolute: dict[str, int] = {}
        """Symbols that belong to no section, whatever their value."""
        self.blocks: list[Block] = []
        self.text = self.block(".text", TEXT_VA, TEXT)
        self.text.label("_text")
        # cli; mov eax, 0x80000000; mov cr0, eax; ret
        self.text.function("startup_32", "fa b800000080 0f22c0 c3")
        if room:
            self.text.put(INT3 * ROOM_FOR_ALL)
        self.text.function("behind_head", "b8", Word("_text"), "c3")

    def block(self, name: str, va: int, flags: SectionFlag, alignment: int = 4) -> Block:
        """Begin another section."""
        block = Block(self, name, va, flags, alignment)
        self.blocks.append(block)
        return block

    def rodata(self) -> Block:
        """Begin .rodata."""
        return self.block(".rodata", RODATA_VA, RODATA)

    def writable(self) -> Block:
        """Begin .data."""
        return self.block(".data", DATA_VA, DATA)

    def va(self, name: str) -> int:
        """The address of a label."""
        return self.labels[name][0]

    def bounds(self, start: str, stop: str, block: Block) -> None:
        """Name both ends of a section."""
        self.labels[start] = (block.va, STT_NOTYPE, 0)
        self.labels[stop] = (block.end_va, STT_NOTYPE, 0)

    def build(self) -> bytes:
        """The ELF file."""
        return self.builder().build()

    def builder(self) -> ElfBuilder:
        """The ELF file to be. The head jumps to start_kernel if there is one."""
        builder = ElfBuilder(entry=self.va(self.entry) - PAGE_OFFSET)
        if self.is_entered and "start_kernel" in self.labels:
            self._enter()
        for block in self.blocks:
            for va, part in block.open:
                self._fill(builder, block, va, part)
            builder.section(
                block.name, block.va, bytes(block.data), block.flags, align=block.alignment
            )
            builder.symbol(f"section {block.name}", block.va, kind=STT_SECTION, binding=STB_LOCAL)
        for name, (va, kind, size) in self.labels.items():
            if not name.startswith(".L"):
                builder.symbol(name, va, size=size, kind=kind)
        for name, value in self.absolute.items():
            builder.symbol(name, value, absolute=True)
        return builder

    def image(self) -> ElfImage:
        """The file, read."""
        data = self.build()
        for name in self.zeros:
            data = without_bytes(data, name)
        return ElfImage.parse(data, "small")

    def rewrite(self, padding: Padding = Padding.PREFIX) -> RewrittenSmall:
        """Rewrite it and read the result."""
        done = rewrite(self.image(), RewriteOptions(padding))
        return RewrittenSmall(self, done, ElfImage.parse(done.data, "rewritten"))

    def _enter(self) -> None:
        """Make the ret at the end of the head a jump, over filler that follows it."""
        start_va, kind, size = self.labels["startup_32"]
        at = size - 1
        if self.text.data[at : at + 1] != b"\xc3":
            return
        self.text.data[at] = 0xE9
        self.text.open.append((start_va + at + 1, Branch("e9", "start_kernel")))
        self.labels["startup_32"] = (start_va, kind, size + 4)

    def _fill(self, builder: ElfBuilder, block: Block, va: int, part: Part) -> None:
        match part:
            case Word(symbol, addend, physical, named, relocated):
                value = self.va(symbol) + addend - (PAGE_OFFSET if physical else 0)
                if relocated:
                    builder.relocation(va, R_386_32, self._named(named or symbol))
            case Distance(symbol, addend, relocated, named):
                value = self.va(symbol) + addend - va
                if relocated:
                    builder.relocation(va, R_386_PC32, self._named(named or symbol))
            case Branch(_, target):
                value = self.va(target) - va - 4
                builder.relocation(va, R_386_PC32, self._named(target))
            case Short(_, target):
                block.data[va - block.va] = struct.pack("b", self.va(target) - va - 1)[0]
                return
            case _:
                raise TypeError(part)
        struct.pack_into("<I", block.data, va - block.va, value & 0xFFFFFFFF)

    def _named(self, label: str) -> str:
        """The symbol that a relocation to `label` names."""
        if not label.startswith(".L"):
            return label
        va = self.va(label)
        holder = next(b for b in self.blocks if b.va <= va <= b.end_va)
        return f"section {holder.name}"


@dataclass(frozen=True, slots=True)
class RewrittenSmall:
    """A rewritten small kernel."""

    kernel: SmallKernel
    done: RewrittenImage
    image: ElfImage

    def va(self, symbol: str) -> int:
        """The new address of a symbol."""
        found = self.image.symbols.address(symbol)
        assert found is not None, symbol
        return found

    def code(self, symbol: str, length: int) -> bytes:
        """Bytes at a symbol."""
        return self.image.read(self.va(symbol), length)

    def word(self, va: int) -> int:
        """The u32 at an address of the new image."""
        return int.from_bytes(self.image.read(va, 4), "little")

    def pointee(self, va: int) -> int:
        """Where the distance stored at an address leads."""
        return (self.word(va) + va) & 0xFFFFFFFF

    def target(self, va: int) -> int:
        """Where the branch whose 32-bit displacement is at `va` leads."""
        return (self.pointee(va) + 4) & 0xFFFFFFFF

    @property
    def is_shifted(self) -> bool:
        """Whether sections after .text moved."""
        return self.done.placement.shift_len > 0


def with_strange_table() -> SmallKernel:
    """A kernel whose table of warnings is not in a layout that any Linux has had."""
    kernel = SmallKernel()
    kernel.text.function("f", "fa c3")
    table = kernel.rodata()
    table.put("11111111 22222222 33333333")
    kernel.bounds("__start___bug_table", "__stop___bug_table", table)
    return kernel
