# SPDX-License-Identifier: MIT
"""Where do the corpus's kernels lie, and what is known of each? A cache of directories.

CACHE/NAME holds what vmipatch is given of a row: vmlinuz or bzImage, and where there are any,
vmlinux, System.map, config, modules. Of a build that takes the relocations out of vmlinux there
are vmlinux.unstripped, or the list in arch/x86/boot/compressed, where the build left them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.corpus.table import InputMode
from tests.support import kernels

_PACKED_NAMES = ("vmlinuz", "bzImage")
_LINKED_NAMES = ("vmlinux.unstripped", "vmlinux")
"""The first has the relocations of a build that takes them out of the second."""
_VERSION_PTR_OFF, _SETUP_OFF = 0x20E, 0x200
"""The kernel's version in a bzImage (Documentation/arch/x86/boot.rst, kernel_version)."""
_COMPILER = re.compile(r'^CONFIG_CC_VERSION_TEXT="(.*)"$', re.M)
_LINKER_IS_LLD = "CONFIG_LD_IS_LLD=y"
_KINDS = (
    ("CONFIG_SMP=y", "SMP"),
    ("CONFIG_X86_PAE=y", "PAE"),
    ("CONFIG_PREEMPT_RT=y", "RT"),
    ("CONFIG_PREEMPT_DYNAMIC=y", "PREEMPT_DYNAMIC"),
    ("CONFIG_PREEMPT=y", "PREEMPT"),
    ("CONFIG_CC_OPTIMIZE_FOR_SIZE=y", "-Os"),
    ("CONFIG_KVM=y", "KVM"),
    ("CONFIG_XEN=y", "XEN"),
    ("CONFIG_VMSPLIT_2G=y", "VMSPLIT_2G"),
    ("CONFIG_UBSAN_TRAP=y", "UBSAN_TRAP"),
)
_ABSENT = (("CONFIG_KALLSYMS=y", "no KALLSYMS"), ("CONFIG_RELOCATABLE=y", "not relocatable"))


def default_cache() -> Path:
    """Where the corpus is fetched and built to: beside the test kernels."""
    return kernels.default_cache().with_name("corpus")


@dataclass(frozen=True)
class CorpusKernel:
    """One kernel as vmipatch gets it; a file that there is not is None."""

    name: str
    packed: Path | None
    """The bzImage."""
    linked: Path | None
    """The ELF file."""
    modules: Path | None = None
    config_file: Path | None = None

    @classmethod
    def in_directory(cls, name: str, directory: Path) -> CorpusKernel:
        """The kernel in a directory of the cache."""
        modules, config = directory / "modules", directory / "config"
        return cls(
            name,
            _first(directory, _PACKED_NAMES),
            _first(directory, _LINKED_NAMES),
            modules if modules.is_dir() else None,
            config if config.is_file() else None,
        )

    def input(self, mode: InputMode) -> Path | None:
        """The file that is rewritten in this mode."""
        match mode:
            case InputMode.LINKED:
                return self.linked
            case InputMode.MODULES:
                return self.modules
            case InputMode.TWIN if self.linked is None:
                return None
        return self.packed

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the SHA-256 of the kernel's files."""
        files = [file for file in (self.packed, self.linked) if file is not None]
        return combined(digest(file) for file in files)

    @cached_property
    def config(self) -> str:
        """The text of its configuration, empty if unknown."""
        return self.config_file.read_text() if self.config_file else ""

    @property
    def version(self) -> str:
        """The version in the bzImage's header, up to the first space; empty if unknown."""
        if self.packed is None:
            return ""
        head = self.packed.read_bytes()[:0x10000]
        at = int.from_bytes(head[_VERSION_PTR_OFF : _VERSION_PTR_OFF + 2], "little")
        text = head[at + _SETUP_OFF :].split(b"\0")[0] if at else b""
        return text.decode("ascii", errors="replace").split(" ")[0]

    @property
    def compiler(self) -> str:
        """The compiler that the configuration names; empty if unknown."""
        found = _COMPILER.search(self.config)
        if found is None:
            return ""
        words = found[1].replace("Debian ", "").split(" (")[0].split()
        version = re.search(r"\d+\.\d+", found[1])
        tool = "clang" if "clang" in words else "gcc"
        linker = ", lld" if _LINKER_IS_LLD in self.config else ""
        return f"{tool} {version[0] if version else '?'}{linker}"

    @property
    def facts(self) -> dict[str, str]:
        """Facts for a reader; one that is not known is empty."""
        return {"version": self.version, "compiler": self.compiler, "kind": self.kind}

    @property
    def kind(self) -> str:
        """Options that make kernels differ; empty if unknown."""
        if not self.config:
            return ""
        lines = set(self.config.splitlines())
        words = [word for option, word in _KINDS if option in lines]
        words += [word for option, word in _ABSENT if option not in lines]
        return " ".join(words) or "UP"


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(directory: Path, pattern: str = "*") -> str:
    """SHA-256 over names and contents of the files of a directory, without compiled Python."""
    files = (path for path in directory.rglob(pattern) if path.is_file())
    return combined(
        f"{path.relative_to(directory)}\0{digest(path)}"
        for path in sorted(files)
        if "__pycache__" not in path.parts
    )


def combined(parts: Iterable[str]) -> str:
    """SHA-256 of lines."""
    return hashlib.sha256("".join(f"{part}\n" for part in parts).encode()).hexdigest()


def _first(directory: Path, names: tuple[str, ...]) -> Path | None:
    return next((directory / name for name in names if (directory / name).is_file()), None)
