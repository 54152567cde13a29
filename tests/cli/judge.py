# SPDX-License-Identifier: MIT
"""Did a command that met a damaged file end as it must: one clear error, or a correct result?

Correct is not what the command says of itself: its output is compared byte for byte with what comes
of the undamaged file, or proven from the damaged one by `vmipatch verify --static`.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import resource
import shutil
import signal
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tests.cli.commands import Done, invoke, validated
from vmipatch.errors import ExitCode
from vmipatch.files.open import open_kernel
from vmipatch.image.bzimage import BzImage, is_bzimage
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import Module, is_module
from vmipatch.verify.static import check_static

CPU_LIMIT_S = 600
"""For one command, fifty times what the slowest needs: a command that needs more hangs."""
MEMORY_LIMIT_LEN = 6 << 30
"""Of address space, for one command: no size in a damaged file is believed that asks for more."""
OLD = b"the file that was there before"
MESSAGE = re.compile(r"vmipatch: (?P<file>\S+): (?P<rest>.+) \(.+\)\n")
"""File, what is wrong with it and where, remedy; one line."""
PT_LOAD = 1
RUN_LIMIT = "0.05"
"""Seconds of virtual time."""
NOT_LOADED = {"VP011", "VP030", "VP031", "VP032", "VP041", "VP050", "VP054", "VP073"}
"""Rules about relocation entries, symbols, section headers and where the file comes from."""
BUILD_ID = b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0"
"""Before the 20 bytes of an identity that every rewriting renews."""


@contextlib.contextmanager
def bounded(memory_len: int) -> Iterator[None]:
    """A hang is a failure, and so is memory without end.

    Address space is counted from what this process has: each emulator that an earlier test left to
    the garbage collector reserves more than a gigabyte. Out of it, a stack that grows is a crash.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"more than {CPU_LIMIT_S} s of CPU")

    if memory_len != resource.RLIM_INFINITY:
        memory_len += _address_space_len()
    old = signal.signal(signal.SIGPROF, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    resource.setrlimit(resource.RLIMIT_AS, (memory_len, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space_len() -> int:
    """Of this process now, by proc(5), statm."""
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * mmap.PAGESIZE


def check_command(data: bytes, *command: str, twin: bytes | None = None) -> bytes | None:
    """Run a command on a damaged file: what it wrote, None if it refused and wrote nothing.

    `twin` is for --debug. The output replaces a file that must stay without one.
    """
    written = _checked(data, {"output": "-o"}, command, twin)
    return None if written is None else written["output"]


def check_bzimage(data: bytes, *, twin: bytes | None = None) -> bytes | None:
    """Rewrite a damaged bzImage, or one with a damaged twin: the vmlinux that is proven, None if it
    was refused. The new bzImage has to load the same.
    """
    written = _checked(data, {"output": "-o", "vmlinux": "--vmlinux"}, ("rewrite",), twin)
    if written is None:
        return None
    assert Loaded.of(kernel_in(written["output"])) == Loaded.of(written["vmlinux"])
    return written["vmlinux"]


def _checked(
    data: bytes, outputs: dict[str, str], command: tuple[str, ...], twin: bytes | None
) -> dict[str, bytes] | None:
    """The files that a command wrote, by the names of its `outputs`, which have these options."""
    given = {} if twin is None else {"twin": twin}
    with files(kernel=data, **given, **dict.fromkeys(outputs, OLD)) as directory:
        options = {name: "--debug" for name in given} | outputs
        words = [word for name in options for word in (options[name], str(directory / name))]
        done = observed(directory, *command, *words, outputs=list(outputs))
        written = {name: (directory / name).read_bytes() for name in outputs}
        if done.returncode == ExitCode.INPUT:
            assert set(written.values()) == {OLD}
            return None
        assert done.returncode == ExitCode.SUCCESS, done.stderr
        assert OLD not in written.values()
        return written


def check_verdict(data: bytes, original: bytes) -> ExitCode:
    """The static check's verdict on files, one of them damaged: it holds, fails, or an error."""
    with files(kernel=data, original=original) as directory:
        against = ("--original", str(directory / "original"))
        done = observed(directory, "verify", "--static", "-q", *against)
    assert done.returncode in (ExitCode.SUCCESS, ExitCode.FINDINGS, ExitCode.INPUT), done.stderr
    return ExitCode(done.returncode)


def observed(
    directory: Path, verb: str, *arguments: str, outputs: Sequence[str] = ("output",)
) -> Done:
    """Run a command on the file `kernel`: its outputs or no file is touched, one error at most."""
    before = {path: path.read_bytes() for path in directory.iterdir()}
    # An emulator reserves what it needs, and ends the process if it cannot.
    memory_len = resource.RLIM_INFINITY if verb == "run" else MEMORY_LIMIT_LEN
    with bounded(memory_len):
        done = invoke(verb, directory / "kernel", *arguments)
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr
    after = {path: path.read_bytes() for path in directory.iterdir()}
    assert before.keys() == after.keys(), done.stderr
    changed = sorted(path.name for path in before if before[path] != after[path])
    assert changed in ([], sorted(outputs)), changed
    if done.returncode == ExitCode.INPUT:
        message = MESSAGE.fullmatch(done.stderr)
        assert message, done.stderr
        assert Path(message["file"].rstrip(":")).parent == directory, done.stderr
        assert done.stdout == ""
    return done


@contextlib.contextmanager
def files(**contents: bytes) -> Iterator[Path]:
    """A directory with these files."""
    directory = Path(tempfile.mkdtemp())
    try:
        for name, data in contents.items():
            (directory / name).write_bytes(data)
        yield directory
    finally:
        shutil.rmtree(directory)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An ELF file as a boot loader sees it: all that matters to the machine."""

    entry: int
    segments: tuple[tuple[int, int, int, int, bytes], ...]
    """Linked and physical address, length in memory, flags, bytes, of each that is loaded."""

    @classmethod
    def of(cls, data: bytes) -> Loaded | None:
        """Read without the reader under test; None if the program headers make no sense."""
        try:
            entry, phoff = struct.unpack_from("<2I", data, 24)
            (count,) = struct.unpack_from("<H", data, 44)
            heads = [struct.unpack_from("<8I", data, phoff + 32 * i) for i in range(count)]
        except struct.error:
            return None
        segments = []
        for kind, off, va, pa, file_len, mem_len, flags, _ in heads:
            if kind == PT_LOAD:
                segments.append((va, pa, mem_len, flags, _anonymous(data[off : off + file_len])))
        return cls(entry, tuple(segments))


def _anonymous(segment: bytes) -> bytes:
    at = segment.find(BUILD_ID)
    if at < 0:
        return segment
    at += len(BUILD_ID)
    return segment[:at] + bytes(20) + segment[at + 20 :]


def in_memory(data: bytes) -> object:
    """Memory of a kernel or module, in a form that can be compared."""
    if not is_module(data):
        return Loaded.of(data)
    image = Module.parse(data).image
    return [(s.name, s.flags, image.section_bytes(s)) for s in image.sections if s.is_alloc]


def kernel_in(data: bytes) -> bytes:
    """The ELF file in a bzImage; any other file as it is."""
    return BzImage.parse(data).vmlinux if is_bzimage(data) else data


@dataclass(frozen=True, slots=True)
class Rewriting:
    """Judges what comes of damaged copies of one ELF file: a kernel, or the twin of a bzImage."""

    original: bytes
    output: bytes
    """Output for the undamaged one: a vmlinux."""
    bzimage: bytes | None = None
    """The bzImage that the file is the debug twin of."""

    @classmethod
    def of(cls, original: bytes, bzimage: bytes | None = None) -> Rewriting:
        """Rewrite the undamaged file first."""
        output = cls(original, b"", bzimage).rewritten(original)
        assert output is not None
        return cls(original, output, bzimage)

    def rewritten(self, data: bytes) -> bytes | None:
        """Output for one copy."""
        if self.bzimage is None:
            return check_command(data, "rewrite")
        return check_bzimage(self.bzimage, twin=data)

    def judge(self, damaged: bytes) -> str:
        """Rewrite a damaged copy. Raises AssertionError for an output that is not proven."""
        written = self.rewritten(damaged)
        if written is None:
            return "refused"
        same_input = Loaded.of(damaged) == Loaded.of(self.original)
        assert same_input or self.bzimage is None, "this is not a twin"
        if same_input and Loaded.of(written) == Loaded.of(self.output):
            return "as the undamaged"
        code = check_verdict(written, damaged)
        assert code is ExitCode.SUCCESS, f"an output that is not proven: {code!r}"
        if not same_input:
            return "proven"
        return "unseen" if self._is_wrong(written) else "proven, another layout"

    def _is_wrong(self, written: bytes) -> bool:
        """Whether it is not a rewriting of the undamaged kernel, as far as memory goes."""
        linked = open_kernel(self.original, name="undamaged").linked
        output = ElfImage.parse(written, "written")
        found = check_static(linked.image, output, linked.fixed).findings
        return bool({finding.rule.number for finding in found} - NOT_LOADED)


@dataclass(frozen=True, slots=True)
class Reading:
    """Judges what commands say of damaged copies of one rewritten kernel."""

    original: bytes
    rewritten: bytes

    def verify(self, damaged: bytes) -> str:
        """A file that holds is the file that was written, to the last byte that is loaded."""
        code = check_verdict(damaged, self.original)
        if code is ExitCode.SUCCESS:
            assert in_memory(damaged) == in_memory(self.rewritten), "it holds, and is another"
            return "harmless"
        return "found" if code is ExitCode.FINDINGS else "refused"

    def restore(self, damaged: bytes) -> str:
        """The original, or nothing."""
        written = check_command(damaged, "restore")
        assert written in (None, self.original), "another file came back"
        return "refused" if written is None else "as the undamaged"

    def wrap(self, damaged: bytes) -> str:
        """The bzImage loads what the file does."""
        written = check_command(damaged, "wrap")
        if written is None:
            return "refused"
        assert Loaded.of(kernel_in(written)) == Loaded.of(damaged)
        return "loads the same"

    def rewrite(self, damaged: bytes) -> str:
        """A second time it is refused, as long as its sections tell."""
        written = check_command(damaged, "rewrite")
        if written is None:
            return "refused"
        assert check_verdict(written, damaged) is ExitCode.SUCCESS
        return "proven"

    def scan(self, damaged: bytes) -> str:
        """Every byte of code is accounted for."""
        with files(kernel=damaged) as directory:
            done = observed(directory, "scan", "--json", "-")
        if done.returncode == ExitCode.INPUT:
            return "refused"
        assert done.returncode == ExitCode.SUCCESS, done.stderr
        for section in validated(done.stdout, "scan-2")["sections"]:
            assert sum(section["bytes"].values()) == section["end_va"] - section["start_va"]
        return "accounted for"

    def run(self, damaged: bytes) -> str:
        """The machine stops, whatever the kernel does to it."""
        with files(kernel=damaged) as directory:
            done = observed(directory, "run", "--paravirt", "--limit", RUN_LIMIT)
        if done.returncode == ExitCode.INPUT:
            return "refused"
        assert done.returncode in (ExitCode.SUCCESS, ExitCode.FINDINGS), done.stderr
        return "ran to its end" if done.returncode == ExitCode.SUCCESS else "stopped"


def judge_module(damaged: bytes) -> str:
    """Rewrite a damaged module. Raises AssertionError for an output that is not proven."""
    written = check_command(damaged, "rewrite")
    if written is None:
        return "refused"
    assert check_verdict(written, damaged) is ExitCode.SUCCESS
    return "untouched" if written == damaged else "proven"
