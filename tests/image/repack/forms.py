# SPDX-License-Identifier: MIT
"""The shapes that Linux's boot code has had, each as bytes with names for where its words point.

A part is bytes or a pair: ("name", n) is name - GOT + n, ("@name", n) name - base + n, ("-name", n)
name - here + n, ("=name", n) name + n, where base is what the head addresses from.
Source: arch/x86/boot/compressed/head_32.S of Linux 2.6.27, 3.13, 4.17, 5.10 and 6.1, as compiled.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

LINK_PA = 0x1000000
GDT_LEN = 32
_x = bytes.fromhex

Part = bytes | tuple[str, int]
Names = dict[str, int]


@dataclass(frozen=True, slots=True)
class FormFacts:
    """The facts about a kernel that boot code holds."""

    payload: bytes
    output_len: int
    total_len: int
    bss_len: int
    text_len: int
    run_len: int


@dataclass(frozen=True, slots=True)
class Extra:
    """Code and data besides the usual, for one test: what follows the GOT, as parts of `emit`."""

    text: tuple[Part, ...] = ()
    data: tuple[Part, ...] = ()


def word(value: int) -> bytes:
    """32 bits."""
    return struct.pack("<I", value & 0xFFFFFFFF)


def emit(parts: tuple[Part, ...], at: int, names: Names) -> bytes:
    """The bytes of `parts`, which begin at `at`."""
    out = b""
    for part in parts:
        if isinstance(part, bytes):
            out += part
            continue
        name, addend = part
        base = {"-": at + len(out) + 4, "=": 0, "@": names.get("base", 0)}
        to = names.get(name.lstrip("-=@"), 0)
        out += word(to + addend - base.get(name[0], names.get("got", 0)))
    return out


_ROUND_UP: tuple[Part, ...] = (
    _x("8b 86 30020000 48 01 c3 f7 d0 21 c3 81 fb"), word(LINK_PA), _x("73 05 bb"), word(LINK_PA),
)  # fmt: skip
"""mov kernel_alignment(%esi), %eax ... mov $LOAD_PHYSICAL_ADDR, %ebx"""
_LOAD_GDT: tuple[Part, ...] = (("@data", 0), _x("89 40 02 0f 01 10"))


class BootCodeForm:
    """Linux 5.8 on, linked by GNU ld: everything counts from the GOT, which is _end."""

    def got(self, names: Names, was: int | None) -> int:
        """Where the GOT is; `was` is where it was, and by how much the tail moves since."""
        names["base"] = names["end"] if was is None else was
        return names["base"]

    def distance(self, kernel: FormFacts) -> int:
        """z_extract_offset, where there is one."""
        return 0

    def head(self, kernel: FormFacts, names: Names) -> bytes:
        """From startup_32 to the payload."""
        parts = (
            _x("fc fa 8d a6 e8010000 e8 00000000 5a 81 c2"), ("=base", -13), _x("8d 82"),
            *_LOAD_GDT, _x("b8 18000000 8e d8 8e c0 8e d0 66 90 66 90 8d 9a"), ("@start", 0),
            *self.before_rounding(), *_ROUND_UP, _x("89 dd 03 9e 60020000 81 eb"), ("@end", 0),
            _x("8d a3"), ("@stack", 0), _x("6a 00 9d 56 8d b2"), ("@bss", -4), _x("8d bb"),
            ("@bss", -4), _x("b9"), ("=bss", 0), _x("c1 e9 02 fd f3 a5 fc 5e 8d 83"), *_LOAD_GDT,
            _x("8d 83"), ("@text", 0), _x("ff e0"),
        )  # fmt: skip
        return self.with_stub(emit(parts, 0, names), names)

    def before_rounding(self) -> tuple[Part, ...]:
        """Code of an EFI stub for the address at which the code was loaded."""
        return ()

    def with_stub(self, head: bytes, names: Names) -> bytes:
        """The head, and what follows it."""
        return head

    def entry(self, kernel: FormFacts, names: Names) -> bytes:
        """The first function of the tail."""
        parts = (
            _x("31 c0 8d bb"), ("@bss", 0), _x("8d 8b"), ("@ebss", 0),
            _x("29 f9 c1 e9 02 f3 ab 55 56 e8"), ("-extract", 0), _x("83 c4 18 31 db ff e0 90"),
        )  # fmt: skip
        return emit(parts, names["text"], names)

    def functions(self, kernel: FormFacts, names: Names, entry_len: int, extra: Extra) -> bytes:
        """C code."""
        at = names["extract"] = names["text"] + entry_len
        fetch = (_x("53 e8"), ("-thunk", 0), _x("81 c3"), ("=got", -(at + 6)))
        parts = (
            *fetch, *self.uses(), *self.lengths(kernel), _x("25 0000e0ff"), *extra.text,
            _x("5b c3"),
        )  # fmt: skip
        body = emit(parts, at, names)
        names["thunk"] = at + len(body)
        return body + _x("8b 1c 24 c3")

    def lengths(self, kernel: FormFacts) -> tuple[Part, ...]:
        """Lengths of the kernel in C code."""
        return _x("3d"), word(kernel.total_len), _x("8d 99"), word(kernel.bss_len)

    def uses(self) -> tuple[Part, ...]:
        """References of C code to the payload and its own data."""
        return _x("8d 83"), ("payload", 0), _x("80 bb"), ("payload", 3), _x("08")

    def rodata(self, kernel: FormFacts, names: Names, extra: Extra) -> bytes:
        """Constants; piggy.S does not align its two words."""
        body = word(kernel.total_len) + word(kernel.text_len) + b"nokaslr\0"
        body += b"\0" + word(len(kernel.payload)) + word(kernel.output_len) + bytes(3)
        return body + emit(extra.data, names.get("rodata", 0) + len(body), names)

    def data(self, names: Names) -> bytes:
        """A descriptor table, and in its first bytes nothing that looks like an address."""
        return bytes(range(GDT_LEN))


class WithoutRandomAddress(BootCodeForm):
    """No KASLR: nothing asks how long the kernel is."""

    def lengths(self, kernel: FormFacts) -> tuple[Part, ...]:
        return ()

    def rodata(self, kernel: FormFacts, names: Names, extra: Extra) -> bytes:
        body = b"\0" + word(len(kernel.payload)) + word(kernel.output_len) + bytes(3)
        return body + emit(extra.data, names.get("rodata", 0) + len(body), names)


class WithEfiStub(BootCodeForm):
    """5.8 to 6.5 with CONFIG_EFI_STUB: an entry point after the jump, which C code jumps to."""

    def before_rounding(self) -> tuple[Part, ...]:
        return _x("2b 9a"), ("@data", 16)

    def with_stub(self, head: bytes, names: Names) -> bytes:
        names["stub"] = len(head) + 2
        stub = (_x("66 90 83 c4 04 8b 74 24 08 e8"), ("-extract", 0), _x("ff e0"))
        return head + emit(stub, len(head), names)

    def uses(self) -> tuple[Part, ...]:
        return *super().uses(), _x("e9"), ("-stub", 0)


class LinkedByLld(BootCodeForm):
    """5.8 on, compiled by clang and linked by ld.lld: the GOT is at 0, tables hold addresses."""

    def got(self, names: Names, was: int | None) -> int:
        return 0

    def functions(self, kernel: FormFacts, names: Names, entry_len: int, extra: Extra) -> bytes:
        at = names["extract"] = names["text"] + entry_len
        parts = (
            _x("53 e8 00000000 5b 81 c3"), ("=got", -(at + 6)), _x("8d 83"), ("payload", 0),
            _x("8b 83"), ("data", 8), _x("8b 8c 83"), ("rodata", 0), _x("3d"),
            word(kernel.total_len), _x("8d 99"), word(kernel.bss_len), _x("e8"), ("-thunk", 0),
            *extra.text, _x("5b c3"),
        )  # fmt: skip
        body = emit(parts, at, names)
        names["thunk"] = at + len(body)
        return body + _x("31 c0 c3")

    def rodata(self, kernel: FormFacts, names: Names, extra: Extra) -> bytes:
        cases = emit((("extract", 0), ("thunk", 0), ("thunk", 2), ("extract", 1)), 0, names)
        return cases + super().rodata(kernel, names, extra)


class FromStart(BootCodeForm):
    """4.7 to 5.7 with CONFIG_EFI_STUB: assembly counts from startup_32, C code from the GOT."""

    fetch = _x("e8 00000000 5d 81 ed")

    def got(self, names: Names, was: int | None) -> int:
        return names["data"] + 0x40

    def head(self, kernel: FormFacts, names: Names) -> bytes:
        stub = _x("eb 1c 90 90 e8 00000000 5e 81 ee 09000000 8d 86")
        stub += emit((("@data", 0), _x("01 70 28 e8"), ("-extract", 0)), len(stub), names)
        assert len(stub) == 30, len(stub)
        front = stub + _x("fc f6 86 11020000 40 75 10 fa b8 18000000 8e d8 8e c0 8e e0 8e e8 8e d0")
        front += _x("8d a6 e8010000")
        here = len(front) + 5
        return front + emit(
            (
                self.fetch, word(here), _x("89 eb"), *self.rounding(), *self.room(),
                _x("8d a3"), ("@stack", 0), _x("6a 00 9d 56 8d b5"), ("@bss", -4), _x("8d bb"),
                ("@bss", -4), _x("b9"), ("=bss", 0), _x("c1 e9 02 fd f3 a5 fc 5e 8d 83"),
                ("@text", 0), _x("ff e0"),
            ), len(front), names,
        )  # fmt: skip

    def functions(self, kernel: FormFacts, names: Names, entry_len: int, extra: Extra) -> bytes:
        """C code, and after it the stub's call of firmware, which counts from startup_32."""
        code = super().functions(kernel, names, entry_len, extra)
        at = names["phys"] = names["text"] + entry_len + len(code)
        parts = (
            _x("59 e8 00000000 5a 81 ea"), word(at + 6), _x("89 8a"), ("@bss", 16),
            _x("ff d1 e8 00000000 5a 81 ea"), word(at + 26), _x("8b 8a"), ("@bss", 16),
            _x("51 c3"),
        )  # fmt: skip
        return code + emit(parts, at, names)

    def uses(self) -> tuple[Part, ...]:
        return *super().uses(), _x("e8"), ("-phys", 0)

    def rounding(self) -> tuple[Part, ...]:
        """From where it runs to where the kernel may lie."""
        return _ROUND_UP

    def room(self) -> tuple[Part, ...]:
        """Where the copy goes."""
        return _x("8b 86 60020000 2d"), ("@end", 0), _x("01 c3")

    def entry(self, kernel: FormFacts, names: Names) -> bytes:
        parts = (
            _x("31 c0 8d bb"), ("@bss", 0), _x("8d 8b"), ("@ebss", 0),
            _x("29 f9 c1 e9 02 f3 ab 8d 93"), ("@data", 0x40), _x("8d 8b"), ("@data", 0x50),
            _x("39 ca 73 07 01 1a 83 c2 04 eb f5"), *self.pushed(kernel), _x("8d 83"),
            ("@payload", 0), _x("50 8d 83"), ("@bss", 0), _x("50 56 e8"), ("-extract", 0),
            _x("83 c4 18 31 db ff e0 90"),
        )  # fmt: skip
        return emit(parts, names["text"], names)

    def pushed(self, kernel: FormFacts) -> tuple[Part, ...]:
        """The lengths that C code gets."""
        return (
            _x("68"), word(kernel.output_len), _x("8b 86 60020000 2d"), ("@end", 0),
            _x("89 dd 29 c5 55 68"), word(len(kernel.payload)),
        )  # fmt: skip

    def rodata(self, kernel: FormFacts, names: Names, extra: Extra) -> bytes:
        body = word(kernel.total_len) + b"nokaslr\0"
        return body + emit(extra.data, names.get("rodata", 0) + len(body), names)

    def data(self, names: Names) -> bytes:
        """The EFI stub's pointer, and the GOT: a function, a variable, the payload, nothing."""
        pointer = bytes(40) + emit((("@thunk", 0),), 0, names)
        entries = emit((("@extract", 0), ("@bss", 8), ("@payload", 0), bytes(4)), 0, names)
        return pointer.ljust(0x40, b"\0") + entries


class WithLinkerTables(FromStart):
    """4.8 to 5.6, linked by GNU ld -pie: tables for a dynamic linker stand in the data."""

    def __init__(self, *, gnu_hash: bool, tag: int = 11) -> None:
        self.gnu_hash = gnu_hash
        self.tag = tag
        """That of the length of a symbol, DT_SYMENT; another makes .dynamic something else."""

    def rodata(self, kernel: FormFacts, names: Names, extra: Extra) -> bytes:
        body = super().rodata(kernel, names, extra)
        body += bytes(-len(body) % 4)
        at = names["tables"] = names["rodata"] + len(body)
        symbols = (bytes(16), *self._symbol("etext"), *self._symbol("text"), *self._symbol("end"))
        strings, hashes = b"\0_etext\0", self._hashes()
        rel = (("=text", 4), word(8), ("=text", 10), word(8))
        names["dynamic"] = at + 64 + len(strings) + len(hashes) + 16 + 3
        places: tuple[tuple[int, int, int | None], ...] = (
            (6, 0, 0), (self.tag, 16, None), (5, 64, 0), (10, len(strings), None),
        )  # fmt: skip
        places += ((0x6FFFFEF5 if self.gnu_hash else 4, 64 + len(strings) + 3, 0),)
        places += ((17, 64 + len(strings) + 3 + len(hashes), 0), (18, 16, None), (22, 0, None))
        dynamic: tuple[Part, ...] = ()
        for tag, value, is_number in places:
            dynamic += word(tag), word(value) if is_number is None else ("=tables", value)
        parts = (*symbols, strings, bytes(3), hashes, *rel, *dynamic, bytes(8))
        made = emit(parts, at, names)
        names["tables_end"] = at + len(made)
        return body + made

    def _symbol(self, name: str) -> tuple[Part, ...]:
        return word(1), (f"={name}", 0), word(0), word(0x10010)

    def _hashes(self) -> bytes:
        if not self.gnu_hash:
            return b"".join(map(word, (1, 4, 1, 0, 2, 3, 0)))
        return b"".join(map(word, (1, 1, 1, 5, 0xFFFFFFFF, 1, 0x10, 0x20, 0x31)))

    def data(self, names: Names) -> bytes:
        pointer, entries = super().data(names)[:0x40], super().data(names)[0x44:]
        return pointer + word(names["dynamic"]) + entries


class ByDistance(FromStart):
    """3.13 to 4.6: the copy lies a constant after the kernel; this one relocates in assembly."""

    def distance(self, kernel: FormFacts) -> int:
        shrunk = max(kernel.output_len - len(kernel.payload), 0)
        return -(-(shrunk + (kernel.output_len >> 12) + (64 << 10) + 128) // 4096) * 4096

    def room(self) -> tuple[Part, ...]:
        return _x("81 c3"), ("=distance", 0)

    def pushed(self, kernel: FormFacts) -> tuple[Part, ...]:
        return (
            _x("68"), word(kernel.run_len), _x("8d ab"), word(-self.distance(kernel)),
            _x("55 68"), word(len(kernel.payload)), _x("8d bd"),
            word(kernel.output_len), _x("01 9c 0b"), word(0x40000000),
        )  # fmt: skip

    def lengths(self, kernel: FormFacts) -> tuple[Part, ...]:
        return ()

    def rodata(self, kernel: FormFacts, names: Names, extra: Extra) -> bytes:
        return b"nokaslr\0" + emit(extra.data, names.get("rodata", 0) + 8, names)


class WithoutLowest(ByDistance):
    """2.6.30 to 3.12: the address is rounded up, and not compared with the lowest there may be."""

    def rounding(self) -> tuple[Part, ...]:
        return (_x("8b 86 30020000 48 01 c3 f7 d0 21 c3"),)

    def pushed(self, kernel: FormFacts) -> tuple[Part, ...]:
        return super().pushed(kernel)[2:]


class ByLengths(BootCodeForm):
    """2.6.26 to 2.6.29: two words tell the lengths, and .bss is copied with the rest."""

    def got(self, names: Names, was: int | None) -> int:
        return names["data"]

    def head(self, kernel: FormFacts, names: Names) -> bytes:
        front = _x("fc fa 8d a6 e8010000 e8 00000000 5d 81 ed 0d000000 89 eb 81 c3 ffff1f00 81 e3")
        front += _x("0000e0ff 2b 9d")
        parts = (
            ("@payload", -4), _x("8b 85"), ("@payload_end", -4),
            _x("01 c3 c1 e8 0c 01 c3 81 c3 12800000 81 c3 ff0f0000 81 e3 00f0ffff 56 8d b5"),
            ("@ebss", 0), _x("8d bb"), ("@ebss", 0), _x("b9"), ("=ebss", 0), _x("fd f3 a4 fc 5e"),
            _x("8d 83"), ("@text", 0), _x("ff e0"), word(len(kernel.payload)),
        )  # fmt: skip
        return front + emit(parts, len(front), names)

    def entry(self, kernel: FormFacts, names: Names) -> bytes:
        parts = (
            _x("31 c0 8d bb"), ("@bss", 0), _x("8d 8b"), ("@ebss", 0), _x("29 f9 fc f3 aa 8d a3"),
            ("@stack", 0), _x("8b 83"), ("@payload_end", -4), _x("50 55 8b 83"), ("@payload", -4),
            _x("50 8d 83"), ("@payload", 0), _x("50 56 e8"), ("-extract", 0),
            _x("83 c4 14 59 31 db ff e5 90"),
        )  # fmt: skip
        return emit(parts, names["text"], names)

    def lengths(self, kernel: FormFacts) -> tuple[Part, ...]:
        return ()

    def uses(self) -> tuple[Part, ...]:
        """Compilers of that time put jump tables into the code."""
        return _x("ff e0"), ("thunk", 0), word(0xFFFFFFFF), _x("8b 83"), ("data", 4)

    def rodata(self, kernel: FormFacts, names: Names, extra: Extra) -> bytes:
        return b"Linux" + emit(extra.data, names.get("rodata", 0) + 5, names)


GNU = BootCodeForm()
FORMS = {
    "5.8 on": GNU,
    "no KASLR": WithoutRandomAddress(),
    "5.10 with EFI stub": WithEfiStub(),
    "lld": LinkedByLld(),
    "4.7 to 5.7": FromStart(),
    "3.13 to 4.6": ByDistance(),
    "2.6.30 to 3.12": WithoutLowest(),
    "2.6.26 to 2.6.29": ByLengths(),
}
