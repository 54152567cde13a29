# SPDX-License-Identifier: MIT
"""How do the ROM's C sources become a linked file? With gcc, when the package is built.

A wheel holds the result; a checkout compiles when it is first asked for it, and so does a wheel
that was built without gcc.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from typing import Final

from vmipatch.errors import EnvironmentProblem
from vmipatch.xen.facts import numbers_header

SOURCES: Final = (
    "place.c", "load.c", "pages.c", "stores.c", "tables.c", "traps.c", "calls.c", "pic.c",
    "timer.c", "ports.c", "say.c",
)  # fmt: skip
"""In the order in which they can be read, after entry.S."""
LINKED_NAME: Final = "rom.elf"
_FLAGS: Final = (
    "-m32", "-march=i686", "-O2", "-std=gnu11", "-ffreestanding", "-fno-pic", "-fno-pie",
    "-mregparm=3", "-freg-struct-return", "-mgeneral-regs-only", "-mpreferred-stack-boundary=2",
    "-fno-strict-aliasing", "-fno-stack-protector", "-fcf-protection=none", "-fno-builtin",
    "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns", "-fno-jump-tables",
    "-fno-common", "-fno-ident", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip
"""No library, no FPU, nothing that depends on the host's defaults."""


def packaged() -> bytes | None:
    """The file that was linked when the package was built; None in a checkout."""
    file = resources.files("vmipatch.xen").joinpath(LINKED_NAME)
    return file.read_bytes() if file.is_file() else None


def can_link() -> bool:
    """Whether there is a compiler and a linker."""
    return shutil.which("gcc") is not None and shutil.which("ld") is not None


def link() -> bytes:
    """Compile and link the ROM: an ELF file that keeps its relocations.

    Raises EnvironmentProblem if there is no gcc that makes i386 code.
    """
    if not can_link():
        raise EnvironmentProblem(
            "the ROM for Xen is not compiled here, and there is no gcc to do it",
            hint="install gcc, or a wheel of vmipatch",
        )
    with (
        tempfile.TemporaryDirectory() as directory,
        resources.as_file(resources.files("vmipatch.xen").joinpath("rom")) as sources,
    ):
        scratch = Path(directory)
        (scratch / "numbers.h").write_text(numbers_header())
        objects = []
        for name in ("entry.S", *SOURCES):
            out = scratch / f"{Path(name).stem}.o"
            _run("gcc", *_FLAGS, "-I", str(scratch), "-c", str(sources / name), "-o", str(out))
            objects.append(str(out))
        linked = scratch / LINKED_NAME
        script = str(sources / "rom.ld")
        _run(
            "ld", "-m", "elf_i386", "-T", script, "--emit-relocs", "--build-id=none",
            "--no-warn-rwx-segments", "-o", str(linked), *objects,
        )  # fmt: skip
        return linked.read_bytes()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentProblem(
            f"{command[0]} refused the ROM's sources: {done.stderr.strip()}",
            hint="gcc 12 of Debian 12 compiles them; report what yours says",
        )
