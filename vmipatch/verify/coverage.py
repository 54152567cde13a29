# SPDX-License-Identifier: MIT
"""Which sites did a boot execute, of all there are?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from vmipatch.emu.hypervisor.virtual_cpu import USER_RING
from vmipatch.emu.processor.bits import Cr0
from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.processor.paging import Mmu
from vmipatch.errors import InputNotUnderstood, MalformedTable
from vmipatch.image.elf import ElfImage
from vmipatch.image.stored_json import json_value
from vmipatch.isa.classify import classify
from vmipatch.isa.second import decode_second
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import unpack_records

RECORD_SECTIONS = (".vmi.annotation", ".vmi.annotation.init")
MANIFEST_SECTION = ".vmi.manifest"
_PG = int(Cr0.PG)
MAX_FUSED_LEN = 16
"""Bytes that hold the instructions of any fused site."""


@dataclass(frozen=True, slots=True)
class AnnotatedSite:
    """One record: a place where the runtime puts a call."""

    va: int
    kind: str
    """The class of its instruction, as `vmipatch scan` names it."""
    function: str
    call: VmiCall
    code_len: int
    """Of its padded body."""


@dataclass(frozen=True, slots=True)
class NativeSite:
    """A sensitive instruction that the rewriter left as it was."""

    va: int
    kind: str
    function: str
    trapping: bool
    """Whether it faults at CPL 1; else it would be silently wrong there."""
    reason: str
    others: tuple[int, ...] = ()
    """Addresses of the other instructions of a fused site, such as the `hlt` of `sti; hlt`."""


@dataclass(frozen=True, slots=True)
class Sites:
    """A rewritten kernel's own list of its sensitive instructions, in address order."""

    annotated: tuple[AnnotatedSite, ...]
    native: tuple[NativeSite, ...]

    @classmethod
    def of(cls, output: ElfImage) -> Sites:
        """Read records and manifest.

        Raises InputNotUnderstood if `output` is not a rewritten kernel, MalformedTable.
        """
        _require_rewritten(output)
        return cls(_annotated(output, RECORD_SECTIONS), native_sites(output))

    @classmethod
    def of_module(cls, output: ElfImage) -> Sites:
        """The same of a rewritten module, linked; none of a module in which nothing was done.

        Raises MalformedTable.
        """
        if MANIFEST_SECTION not in output.section_by_name:
            return cls((), ())
        names = [name for name in RECORD_SECTIONS if name in output.section_by_name]
        return cls(_annotated(output, names), _native(output))

    def by_reason(self) -> Counter[str]:
        """How many were left native, by reason."""
        return Counter(site.reason for site in self.native)


def _require_rewritten(output: ElfImage) -> None:
    names = (*RECORD_SECTIONS, MANIFEST_SECTION)
    if any(name not in output.section_by_name for name in names):
        raise InputNotUnderstood(
            "this kernel has not been rewritten",
            file=output.name,
            hint="make one with `vmipatch rewrite`",
        )


def _annotated(output: ElfImage, names: Iterable[str]) -> tuple[AnnotatedSite, ...]:
    sites = []
    for name in names:
        data = output.section_bytes(output.section_by_name[name])
        for record in unpack_records(data, name, output.name):
            code = output.read(record.native_va, record.native_len)
            function = function_of(output, record.native_va)
            kind = kind_of(code)
            sites.append(AnnotatedSite(record.native_va, kind, function, record.call, len(code)))
    return tuple(sorted(sites, key=lambda site: site.va))


def native_sites(output: ElfImage) -> tuple[NativeSite, ...]:
    """The second half of `Sites` alone, which is the cheaper one. Raises as `Sites.of`."""
    _require_rewritten(output)
    return _native(output)


def _native(output: ElfImage) -> tuple[NativeSite, ...]:
    section = output.section_by_name[MANIFEST_SECTION]
    try:
        rows = json_value(output.section_bytes(section).rstrip(b"\0"))["native"]
        sites = [
            NativeSite(
                int(row["va"]),
                str(row["kind"]),
                function_of(output, int(row["va"])),
                row["disposition"] == "native-trapping",
                str(row["reason"]),
                _others(output, int(row["va"]), str(row["kind"])),
            )
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise MalformedTable(
            f"the manifest cannot be read: {error}", file=output.name, place=MANIFEST_SECTION
        ) from error
    return tuple(sorted(sites, key=lambda site: site.va))


def _others(output: ElfImage, va: int, kind: str) -> tuple[int, ...]:
    """Where the instructions of a fused site stand after its first one."""
    count = kind.count("+")
    section = output.section_at(va)
    if not count or section is None:
        return ()
    code = output.read(va, min(MAX_FUSED_LEN, section.end_va - va))
    return tuple(decode_second(code, va).starts[1 : count + 1].tolist())


@lru_cache(maxsize=4096)
def kind_of(body: bytes) -> str:
    """The class of the sensitive instruction in a padded body; of a fused pair `sti+hlt`."""
    decoded = decode_second(body, 0)
    ends = (decoded.starts + decoded.lens).tolist()
    forms = [
        classify(body[start:end]) for start, end in zip(decoded.starts.tolist(), ends, strict=True)
    ]
    return "+".join(form.kind for form in forms if form is not None) or "unknown"


def function_of(image: ElfImage, va: int) -> str:
    """The name of the symbol at or before `va`."""
    return image.symbols.place_of(va).split("+")[0]


@dataclass(frozen=True, slots=True)
class Share:
    """So many of a group of sites were executed."""

    name: str
    executed: int
    sites: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """Sites executed of sites, whole and in groups."""

    whole: Share
    classes: tuple[Share, ...]
    """By class of instruction, the largest first."""
    functions: tuple[Share, ...]
    """By function, in the order of the names."""

    @property
    def percent(self) -> float:
        """Executed sites of a hundred; all of none are a hundred."""
        return 100 * self.whole.executed / self.whole.sites if self.whole.sites else 100.0


def coverage_of(sites: Sites, executed: frozenset[int]) -> Coverage:
    """The coverage of the annotated sites by `executed` addresses."""
    every = sites.annotated
    classes = _shares((site.kind for site in every), _hit(every, executed, lambda s: s.kind))
    functions = _shares(
        (site.function for site in every), _hit(every, executed, lambda s: s.function)
    )
    hits = sum(site.va in executed for site in every)
    return Coverage(
        Share("all", hits, len(every)),
        tuple(sorted(classes, key=lambda share: (-share.sites, share.name))),
        tuple(sorted(functions, key=lambda share: share.name)),
    )


def _hit(
    sites: Iterable[AnnotatedSite], executed: frozenset[int], key: Callable[[AnnotatedSite], str]
) -> Iterable[str]:
    return (key(site) for site in sites if site.va in executed)


def _shares(names: Iterable[str], hits: Iterable[str]) -> list[Share]:
    every, hit = Counter(names), Counter(hits)
    return [Share(name, hit[name], count) for name, count in every.items()]


class SiteRecorder:
    """Notes which of some addresses a machine executes, once it counts.

    Each address is watched until it has been seen, which costs far less than to be told each time.
    """

    def __init__(self, cpu: Cpu, mmu: Mmu, vas: Iterable[int], counts: Callable[[], bool]) -> None:
        self.executed: set[int] = set()
        self._registers = cpu.registers
        self._mmu = mmu
        self._counts = counts
        self._endings = {va: cpu.watch(va, self._seer(va)) for va in vas}
        self._done: list[int] = []

    def forget(self) -> None:
        """Between two runs of the CPU: stop watching what has been seen.

        Unicorn then looks for translated code at the address, with the rights of the current ring;
        if there were none, it would leave a page fault for the guest. So only the kernel's
        turn is good for it; what is not mapped any more will not be executed again either. A
        processor that has no page tables yet maps nothing.
        """
        registers = self._registers
        if not self._done or registers.cpl == USER_RING or not registers.cr0 & _PG:
            return
        for va in self._done:
            ending = self._endings.pop(va)
            if self._mmu.find(va) is not None:
                ending()
        self._done.clear()

    def _seer(self, va: int) -> Callable[[], None]:
        def seen() -> None:
            if va not in self.executed and self._counts():
                self.executed.add(va)
                self._done.append(va)

        return seen
