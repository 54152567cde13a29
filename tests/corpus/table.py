# SPDX-License-Identifier: MIT
"""Which kernels are in the corpus? One row each: where it comes from, pinned, and what is expected.

Debian's versions are those that a release keeps: the last of bullseye's and bookworm's point
releases, and the last 6.5 of bookworm-backports.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


class InputMode(enum.Enum):
    """The input that `vmipatch rewrite` is given."""

    TWIN = "twin"
    """The bzImage with its vmlinux (`--debug`)."""
    ALONE = "alone"
    """The bzImage and nothing else."""
    LINKED = "linked"
    """The vmlinux as the build left it."""
    MODULES = "modules"
    """The tree of modules."""


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """A kernel that Debian built, as its i386 packages have it."""

    suite: str
    image: str
    """Name of the image package; the debug package's ends in -dbg."""
    version: str
    debug: bool = True
    """Whether there is a debug package."""


@dataclass(frozen=True, slots=True)
class SourcePackage:
    """A package of kernel sources."""

    suite: str
    package: str
    version: str


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler and a linker, by packages of Debian 12."""

    name: str
    packages: tuple[str, ...]
    make_arguments: str = ""


@dataclass(frozen=True, slots=True)
class Build:
    """A kernel to build."""

    source: SourcePackage
    compiler: Compiler
    fragments: tuple[str, ...]
    """Files of tests/corpus/configs, without `.config`, that together are the configuration."""


@dataclass(frozen=True, slots=True)
class OwnKernel:
    """One of the kernels that `make kernels` builds."""

    name: str


NOTHING: Mapping[InputMode, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """One kernel of the corpus."""

    name: str
    origin: DebianPackage | Build | OwnKernel
    modules: bool = False
    """Whether its modules are taken through the steps, too."""
    refused: Mapping[InputMode, str] = field(default_factory=lambda: NOTHING)
    """Where `vmipatch rewrite` rightly refuses it: words that its message must hold."""


_V5_10 = SourcePackage("bullseye", "linux-source-5.10", "5.10.223-1")
_V6_1 = SourcePackage("bookworm", "linux-source-6.1", "6.1.176-1")
_V6_12 = SourcePackage("bookworm-backports", "linux-source-6.12", "6.12.95-1~bpo12+1")
_V7_2 = SourcePackage("sid", "linux-source-7.2", "7.2.13-1")

_GCC = Compiler("gcc 12", ("gcc-12",))
_CLANG_14 = Compiler("clang 14 and lld 14", ("clang-14", "lld-14", "llvm-14"), "LLVM=-14")
_CLANG_19 = Compiler("clang 19 and lld 19", ("clang-19", "lld-19", "llvm-19"), "LLVM=-19")

_TINY = ("base", "relocatable", "symbols", "tiny", "speed")
_SMP_PAE = ("base", "relocatable", "symbols", "smp-pae", "speed", "graph-tracer")
_GUARDED = (*_SMP_PAE, "stack-protector")
_PACKED = (*_GUARDED, "hosts")
_SMALL = ("base", "relocatable", "symbols", "smp-pae", "stack-protector", "hosts")
_NO_SYMBOLS = ("base", "relocatable", "no-symbols", "tiny", "speed")
_FIXED = ("base", "fixed", "symbols", "tiny", "speed")


def _debian(suite: str, release: str, version: str, debug: bool = True) -> DebianPackage:
    return DebianPackage(suite, f"linux-image-{release}", version, debug)


_BULLSEYE = ("bullseye", "5.10.0-32", "5.10.223-1")
_BOOKWORM = ("bookworm", "6.1.0-50", "6.1.176-1")
_BACKPORTS = ("bookworm-backports", "6.5.0-0.deb12.4", "6.5.10-1~bpo12+1")


def _of(release: tuple[str, str, str], flavour: str, debug: bool = True) -> DebianPackage:
    suite, number, version = release
    return _debian(suite, f"{number}-{flavour}", version, debug)


_FIXED_REFUSED = {
    mode: "CONFIG_RELOCATABLE" for mode in (InputMode.TWIN, InputMode.ALONE, InputMode.LINKED)
}

ROWS: tuple[CorpusRow, ...] = (
    CorpusRow("tiny", OwnKernel("tiny")),
    CorpusRow("smp-pae", OwnKernel("smp-pae")),
    CorpusRow("debian12-686", _of(_BOOKWORM, "686")),
    CorpusRow("debian12-686-pae", _of(_BOOKWORM, "686-pae")),
    CorpusRow("debian12-rt-686-pae", _of(_BOOKWORM, "rt-686-pae"), modules=True),
    CorpusRow("backports-686", _of(_BACKPORTS, "686", debug=False)),
    CorpusRow("backports-686-pae", _of(_BACKPORTS, "686-pae", debug=False)),
    CorpusRow("debian11-686", _of(_BULLSEYE, "686"), modules=True),
    CorpusRow("debian11-686-pae", _of(_BULLSEYE, "686-pae")),
    CorpusRow("debian11-rt-686-pae", _of(_BULLSEYE, "rt-686-pae")),
    CorpusRow("gcc-5.10-tiny", Build(_V5_10, _GCC, _TINY)),
    CorpusRow("gcc-6.12-tiny", Build(_V6_12, _GCC, _TINY)),
    CorpusRow("gcc-7.2-tiny", Build(_V7_2, _GCC, _TINY)),
    CorpusRow("clang-6.1-tiny", Build(_V6_1, _CLANG_14, _TINY)),
    CorpusRow("clang-7.2-tiny", Build(_V7_2, _CLANG_19, _TINY)),
    CorpusRow("gcc-6.12-smp-pae", Build(_V6_12, _GCC, _GUARDED)),
    CorpusRow("gcc-7.2-smp-pae", Build(_V7_2, _GCC, _GUARDED)),
    CorpusRow("clang-6.1-smp-pae", Build(_V6_1, _CLANG_14, _SMP_PAE)),
    CorpusRow("clang-7.2-smp-pae", Build(_V7_2, _CLANG_19, _GUARDED)),
    CorpusRow("packed-5.10", Build(_V5_10, _GCC, (*_PACKED, "packed-5.10"))),
    CorpusRow("packed-6.1", Build(_V6_1, _GCC, (*_SMALL, "packed-6.1"))),
    CorpusRow("packed-6.12", Build(_V6_12, _CLANG_19, (*_PACKED, "packed-6.12"))),
    CorpusRow(
        "gcc-6.1-no-symbols",
        Build(_V6_1, _GCC, _NO_SYMBOLS),
        refused={InputMode.ALONE: "the kernel has no symbols of its own"},
    ),
    CorpusRow("gcc-6.1-fixed", Build(_V6_1, _GCC, _FIXED), refused=_FIXED_REFUSED),
)
"""The corpus, in the order in which it is worked on and reported."""


def modes(row: CorpusRow) -> tuple[InputMode, ...]:
    """How a row is given to vmipatch."""
    if not isinstance(row.origin, DebianPackage):
        return (InputMode.TWIN, InputMode.ALONE, InputMode.LINKED)
    twin = (InputMode.TWIN,) if row.origin.debug else ()
    return (*twin, InputMode.ALONE, *((InputMode.MODULES,) if row.modules else ()))


def facts(row: CorpusRow) -> dict[str, str]:
    """Facts of a kernel from the table itself: version and compiler."""
    match row.origin:
        case DebianPackage(version=version):
            return {"version": version}
        case Build(source=source, compiler=compiler):
            return {"version": source.version, "compiler": compiler.name}
    return {}


def row(name: str) -> CorpusRow:
    """The row of this name. Raises KeyError."""
    return {each.name: each for each in ROWS}[name]
