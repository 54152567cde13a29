# SPDX-License-Identifier: MIT
"""What will `rewrite` do with a file, what does it refuse, what is lost? Told before it is done.

Nothing here judges by itself: the census is that of `scan`, and whether and how a file is rewritten
is found by rewriting it in memory.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from vmipatch.errors import NotSupported, VmipatchError
from vmipatch.files.census import Census
from vmipatch.files.kernel import KernelFile
from vmipatch.files.kind import Kind
from vmipatch.files.module import ModuleFile, RewrittenModuleFile
from vmipatch.files.rewriting import RewrittenKernel
from vmipatch.image.banner import release_of, release_of_module
from vmipatch.image.elf import ElfImage
from vmipatch.image.module import signed_len
from vmipatch.image.pkcs7 import BrokenSignature, read_signature
from vmipatch.image.relocations import Relocations, has_relocations
from vmipatch.image.repack import pe_header
from vmipatch.image.setup_header import SetupHeader
from vmipatch.names import base_name
from vmipatch.restore import Gives
from vmipatch.scan import Disposition
from vmipatch.tables.table import Table

SCHEMA: Final = "vmipatch.doctor/1"
WIN_CERTIFICATE_LEN: Final = 8
"""Length of the head of a signature (PE Format, attribute certificate table)."""

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class CountedFrom:
    """How many of something there are, and where they come from."""

    count: int
    source: str


@dataclass(frozen=True, slots=True)
class BootFacts:
    """Facts of the setup header of a bzImage."""

    protocol: str
    is_relocatable: bool
    alignment: int
    has_efi: bool
    compression: str
    """Empty if the payload is not understood."""


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """All that is known of a file, and what came of rewriting it in memory."""

    file: KernelFile | ModuleFile
    """The file that was looked at."""
    image: ElfImage | None = field(repr=False)
    """The ELF file whose symbols are taken: the debug twin's, if there is one. None if
    none can be read."""
    release: str
    """Empty if the file does not say."""
    boot: BootFacts | None
    """None of all but a bzImage."""
    symbols: CountedFrom
    """How many, and where from."""
    relocations: CountedFrom
    """The same of words that hold addresses."""
    signature_len: int
    """Bytes of a signature, which an output will not have; 0 without one."""
    signer: str
    """Who signed, as the signature names them; empty if it does not."""
    census: Census | None = field(repr=False)
    """The sites; None of a file whose code is not found."""
    made: RewrittenKernel | RewrittenModuleFile | None = field(repr=False)
    """The output that `rewrite` would give; None if it refuses the file."""
    refusal: VmipatchError | None
    """Why `rewrite` refuses the file."""

    @property
    def dispositions(self) -> dict[Disposition, int]:
        """Number of sites by what becomes of them, as `scan` has it."""
        counts: Counter[Disposition] = Counter()
        for (_, disposition), count in (self.census.counts() if self.census else {}).items():
            counts[disposition] += count
        return {each: counts[each] for each in Disposition}

    @property
    def tables(self) -> tuple[Table, ...]:
        """The kernel's own tables that were found, those of recovered symbols too."""
        if isinstance(self.made, RewrittenKernel):
            return tuple(self.made.kernel.scan.code_map.tables)
        return tuple(self.census.result.code_map.tables) if self.census else ()

    @property
    def outcome(self) -> str:
        """`rewritten`, `unchanged` (a module without sites) or `refused`."""
        if self.made is None:
            return "refused"
        is_changed = isinstance(self.made, RewrittenKernel) or self.made.result.is_changed
        return "rewritten" if is_changed else "unchanged"

    @property
    def losses(self) -> tuple[str, ...]:
        """Parts of the input that the output will not have."""
        if self.made is None or self.outcome == "unchanged":
            return ()
        if not isinstance(self.made, RewrittenKernel):
            length = self.made.result.signature_len
            noted = self.made.result.noted
            found = [f"signature of {length} bytes"] if length else []
        else:
            dropped, noted = self.made.kernel.manifest.dropped, self.made.noted
            found = list(self.made.packed.losses) if self.made.packed else []
            found += [f"{len(dropped)} debug sections"] if dropped else []
        if noted is None or noted.gives is not Gives.INPUT:
            what = "nothing" if noted is None else noted.gives.text
            found.append(f"the whole way back: `vmipatch restore` gives {what}")
        return tuple(found)

    def report(self) -> dict[str, Any]:
        """The JSON report (docs/schemas/doctor-1.json)."""
        census = self.census
        return {
            "kernel": base_name(self.file.name),
            "kind": self.file.kind.value,
            "length": len(self.file.data),
            "sha256": self.file.sha256,
            "release": self.release,
            "boot": self.boot and _boot_report(self.boot),
            "symbols": {"count": self.symbols.count, "source": self.symbols.source},
            "relocations": {"count": self.relocations.count, "source": self.relocations.source},
            "signature": {"length": self.signature_len, "signer": self.signer},
            "tables": [_table_report(table) for table in self.tables],
            "tables_not_understood": list(census.tables_not_understood) if census else [],
            "dispositions": {each.value: n for each, n in self.dispositions.items()},
            "outcome": self.outcome,
            "lost": list(self.losses),
            "refusal": self.refusal and refusal_report(self.refusal),
        }


def diagnose(file: KernelFile | ModuleFile, debug: KernelFile | None = None) -> Diagnosis:
    """Scan and rewrite `file` in memory, with its debug twin if it has one.

    A refusal of either is part of what is found, and not raised.
    """
    if isinstance(file, ModuleFile):
        return _of_module(file)
    image = _or_none(lambda: (debug or file).image)
    made, refusal = _tried(lambda: file.rewrite(debug=debug))
    length, signer = _signature(file)
    return Diagnosis(
        file,
        image,
        _release(file, image),
        _boot(file),
        _symbols(image, made, debug),
        _relocations(file, image, debug),
        length,
        signer,
        _or_none((debug or file).scan),
        made,
        refusal,
    )


def refusal_report(error: VmipatchError) -> dict[str, Any]:
    """An error as values; of the file only its place."""
    return {
        "error": type(error).__name__,
        "limit": error.limit.name if isinstance(error, NotSupported) else None,
        "message": error.message,
        "place": error.place,
        "hint": error.hint,
        "exit_code": int(error.exit_code),
    }


def _of_module(file: ModuleFile) -> Diagnosis:
    made, refusal = _tried(file.rewrite)
    module = _or_none(lambda: file.module)
    image = None if module is None else module.file
    length, signer = _module_signature(file.unpacked)
    words = _or_none(lambda: len(Relocations.of(module.image))) if module else None
    return Diagnosis(
        file,
        image,
        release_of_module(image) if image else "",
        None,
        CountedFrom(len(image.symbols) if image else 0, "the file"),
        CountedFrom(words or 0, "the file"),
        length,
        signer,
        _or_none(file.scan),
        made,
        refusal,
    )


def _or_none(job: Callable[[], Found]) -> Found | None:
    """The result of a job, None if it refuses: then `rewrite` refuses for the same reason."""
    try:
        return job()
    except VmipatchError:
        return None


def _tried(job: Callable[[], Found]) -> tuple[Found | None, VmipatchError | None]:
    try:
        return job(), None
    except VmipatchError as error:
        return None, error


def _release(file: KernelFile, image: ElfImage | None) -> str:
    """By the setup code of a bzImage, else by the banner; without who built it where."""
    bzimage = _or_none(lambda: file.bzimage)
    told = bzimage.version.split(" ", 1)[0] if bzimage else ""
    return told or (release_of(image) if image else "")


def _boot(file: KernelFile) -> BootFacts | None:
    if file.kind is not Kind.BZIMAGE:
        return None
    header = _or_none(lambda: SetupHeader.parse(file.data, file.name))
    if header is None:
        return None
    bzimage = _or_none(lambda: file.bzimage)
    return BootFacts(
        f"{header.version >> 8}.{header.version & 0xFF:02}",
        bool(header.relocatable_kernel),
        header.kernel_alignment,
        _or_zero(lambda: pe_header.is_pe(file.data)),
        bzimage.compression.label if bzimage else "",
    )


def _symbols(
    image: ElfImage | None, made: RewrittenKernel | None, debug: KernelFile | None
) -> CountedFrom:
    own = _or_none(lambda: len(image.symbols)) if image else None
    if own:
        return CountedFrom(own, "the debug twin" if debug else "the file")
    if made is not None:
        return CountedFrom(
            len(made.kernel.scan.image.symbols), "recovered from kallsyms and the code"
        )
    return CountedFrom(0, "none")


def _relocations(file: KernelFile, image: ElfImage | None, debug: KernelFile | None) -> CountedFrom:
    """The relocations that `rewrite` goes by: of sections, or a list."""
    if image is not None and has_relocations(image):
        count = _or_none(lambda: len(Relocations.of(image)))
        return CountedFrom(count or 0, "the debug twin" if debug else "the file")
    for each in (debug, file):
        if each is not None and each.beside is not None:
            kind = "the list" if each.beside.is_list else "the vmlinux"
            return CountedFrom(_words_beside(each), f"{kind} that the build left beside it")
    bzimage = _or_none(lambda: file.bzimage)
    if bzimage is not None and bzimage.relocs is not None:
        return CountedFrom(len(bzimage.relocs), "the list of the bzImage")
    return CountedFrom(0, "none")


def _words_beside(file: KernelFile) -> int:
    linked = _or_none(lambda: file.linked)
    return len(Relocations.of(linked.image)) if linked else 0


def _signature(file: KernelFile) -> tuple[int, str]:
    """Length of what sbsign added, and who signed."""
    if file.kind is not Kind.BZIMAGE:
        return 0, ""
    off, length = _or_zero(lambda: pe_header.certificates(file.data)) or (0, 0)
    return length, _signer(file.data[off + WIN_CERTIFICATE_LEN : off + length])


def _module_signature(data: bytes) -> tuple[int, str]:
    length = signed_len(data)
    return length, _signer(data[len(data) - length :] if length else b"")


def _signer(signature: bytes) -> str:
    """Who signed, empty if nothing did or the signature is not understood."""
    try:
        return read_signature(signature).signer if signature else ""
    except BrokenSignature:
        return ""


def _or_zero(job: Callable[[], Any]) -> Any:
    """A value of headers that may be cut off: False or None then."""
    try:
        return job()
    except (struct.error, IndexError):
        return False


def _boot_report(boot: BootFacts) -> dict[str, Any]:
    return {
        "protocol": boot.protocol,
        "relocatable": boot.is_relocatable,
        "alignment": boot.alignment,
        "efi": boot.has_efi,
        "compression": boot.compression,
    }


def _table_report(table: Table) -> dict[str, Any]:
    return {
        "name": table.name.value,
        "layout": table.layout,
        "start_va": table.start_va,
        "end_va": table.end_va,
        "entries": len(table),
    }
