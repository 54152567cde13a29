# SPDX-License-Identifier: MIT
"""Which sensitive instructions does a kernel have, and what is to become of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from vmipatch.errors import NotSupported
from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import START
from vmipatch.image.module import is_linked_module
from vmipatch.image.types import Section
from vmipatch.isa.classify import classify
from vmipatch.isa.decode import InstructionStream, decode
from vmipatch.isa.forms import AtCpl1, FormTreatment
from vmipatch.limits import Limit
from vmipatch.scan.code import CodeMap
from vmipatch.scan.follow import follow
from vmipatch.scan.ledger import CLASS_OF, ByteClass, Ledger, LedgerReason, SectionAccount
from vmipatch.scan.site import Disposition, Reason, Sighting, Site, find_sightings
from vmipatch.scan.zones import Zone, Zones
from vmipatch.tables.table import Role, TableName
from vmipatch.vmi.record import NEAR_CALL_LEN

FAULTING = frozenset({"lldt", "ltr", "lgdt", "lidt", "mov to cr"})
"""Kinds whose operand decides whether they fault, and which a thunk would run elsewhere.

RDMSR, WRMSR, RDPMC and XSETBV call the ROM directly; ours answers NONE and leaves them native.
The fault of an IRET is reported at its site by the ROM's hypervisor.
"""

LAID_OUT = frozenset({".text", ".text.behind", ".init.text"})
"""Sections of a kernel that the rewriter lays out anew; sites elsewhere stay native.

The second is a part of .text in kernels whose symbols were recovered (vmipatch.recover).
"""


def laid_out(image: ElfImage) -> frozenset[str]:
    """Names of the sections of `image` that are laid out anew: of a module, all code."""
    if not is_linked_module(image):
        return LAID_OUT
    return frozenset(section.name for section in image.executable_sections)


@dataclass(frozen=True)
class ScanResult:
    """Everything the scan learnt about an image."""

    code_map: CodeMap = field(repr=False)
    zones: Zones = field(repr=False)
    ledger: Ledger = field(repr=False)

    @property
    def image(self) -> ElfImage:
        """The image that was scanned."""
        return self.code_map.image

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites in address order."""
        return self.ledger.sites

    @property
    def rewritten(self) -> tuple[Site, ...]:
        """The sites that are to become calls."""
        return tuple(s for s in self.sites if s.disposition is Disposition.REWRITTEN)

    def leaving(self, vas: frozenset[int], reason: Reason) -> ScanResult:
        """The same, with the sites at `vas` left native for `reason`."""
        sites = tuple(
            replace(site, disposition=native_disposition(site), reason=reason)
            if site.va in vas
            else site
            for site in self.sites
        )
        return replace(self, ledger=replace(self.ledger, sites=sites))

    def proven(self) -> ScanResult:
        """The same, with sites of bytes that the ledger calls unknown as unknown themselves."""
        sites = tuple(
            replace(site, disposition=Disposition.UNKNOWN, reason=Reason.NOT_PROVEN)
            if CLASS_OF[self.why(site)] is ByteClass.UNKNOWN
            else site
            for site in self.sites
        )
        return replace(self, ledger=replace(self.ledger, sites=sites))

    def why(self, site: Site) -> LedgerReason:
        """The evidence that an instruction begins where the site does."""
        return self._accounts[site.section].why(site.va)

    @cached_property
    def _accounts(self) -> dict[int, SectionAccount]:
        """The account of each section of code, by the section's index."""
        return dict(zip(self.code_map.streams, self.ledger.sections, strict=True))

    def out_of_line(self, vas: frozenset[int]) -> ScanResult:
        """The same, with the sites at `vas` rewritten through trampolines."""
        sites = tuple(
            replace(site, disposition=Disposition.REWRITTEN, reason=Reason.TRAMPOLINE)
            if site.va in vas
            else site
            for site in self.sites
        )
        return replace(self, ledger=replace(self.ledger, sites=sites))


def scan(
    image: ElfImage, *, tolerant: bool = False, start: str = START, keep: Sequence[str] = ()
) -> ScanResult:
    """Decode all code of `image`, find every site and decide what becomes of it.

    `tolerant`: tables that fit no known layout are left out, for a census (`CodeMap.refused`).
    `start` names the function before which the runtime is to run, `keep` what is not decoded.
    Raises MalformedImage, MalformedTable unless tolerant, and InputNotUnderstood if a function that
    lies among data has a site: it cannot become longer.
    """
    code_map = CodeMap.of(image, tolerant=tolerant, start=start, keep=keep)
    _require_no_sites_among_data(image)
    zones = Zones.of(code_map)
    sites: list[Site] = []
    accounts: list[SectionAccount] = []
    movable, followed = laid_out(image), follow(code_map)
    for section, stream in code_map:
        accounts.append(SectionAccount.of(section, stream, followed))
        seen = find_sightings(code_map, stream)
        sites += [_decide(s, section, stream, zones, section.name in movable) for s in seen]
    result = ScanResult(code_map, zones, Ledger(tuple(accounts), tuple(sites)))
    result = result.leaving(_labelled(result), Reason.LABELLED)
    return result.leaving(_fixed_up(result), Reason.FIXUP)


def _require_no_sites_among_data(image: ElfImage) -> None:
    for va, code in image.functions_among_data():
        stream = decode(code, va)
        for index in stream.sensitive_candidates.tolist():
            form = classify(stream.bytes_at(index))
            if form is not None and form.treatment is not FormTreatment.LEAVE:
                site_va = int(stream.starts[index])
                raise NotSupported(
                    Limit.CODE_AMONG_DATA,
                    f"there is a site ({form.name}) in a function that lies among data",
                    file=image.name,
                    place=f"{site_va:#x} ({image.symbols.place_of(site_va)})",
                )


def _labelled(result: ScanResult) -> frozenset[int]:
    """Sites inside of which there is a label."""
    inner = result.code_map.inner_labels
    return frozenset(
        site.va for site in result.rewritten if any(site.va < va < site.end_va for va in inner)
    )


def _fixed_up(result: ScanResult) -> frozenset[int]:
    """Sites with an exception-table entry whose fault would arise inside a thunk or the ROM."""
    words = [t.words for t in result.code_map.tables if t.name is TableName.EX_TABLE]
    expected = {int(w["target_va"]) for t in words for w in t[t["role"] == Role.INSTRUCTION]}
    return frozenset(
        site.va for site in result.rewritten if site.va in expected and site.kind in FAULTING
    )


def _decide(
    seen: Sighting, section: Section, stream: InstructionStream, zones: Zones, is_movable: bool
) -> Site:
    zone = zones.over(seen.va, seen.va + len(seen.code))
    if zone is not None and zone.reason is Reason.ALTERNATIVE:
        seen = _with_its_nops(seen, stream, zone)
    disposition, reason = _verdict(seen, is_movable, zone)
    return Site(
        seen.va, seen.code, section.index, seen.forms, seen.fusion, seen.call, disposition, reason
    )


def _with_its_nops(seen: Sighting, stream: InstructionStream, zone: Zone) -> Sighting:
    """The site together with the nops that fill the rest of an alternative's original."""
    rest = stream.code[seen.va + len(seen.code) - stream.va : zone.end_va - stream.va]
    if zone.start_va != seen.va or rest.strip(b"\x90"):
        return seen
    return replace(seen, code=seen.code + rest)


def _verdict(seen: Sighting, is_movable: bool, zone: Zone | None) -> tuple[Disposition, Reason]:
    if seen.treatment is FormTreatment.LEAVE:
        same = all(form.at_cpl1 is AtCpl1.SAME for form in seen.forms)
        return Disposition.HARMLESS, Reason.SAME_AT_CPL1 if same else Reason.BY_DESCRIPTOR
    native = native_disposition(seen)
    if zone is not None:
        fits = zone.reason is Reason.ALTERNATIVE and len(seen.code) >= NEAR_CALL_LEN
        if fits and seen.treatment is FormTreatment.CALL:
            return Disposition.REWRITTEN, Reason.CALL_IN_ALTERNATIVE
        return native, zone.reason
    if not is_movable:
        return native, Reason.OTHER_SECTION
    if seen.treatment is FormTreatment.CALL:
        return Disposition.REWRITTEN, Reason.CALL
    by_selector = any(form.at_cpl1 is AtCpl1.FAULTS_BY_SELECTOR for form in seen.forms)
    return native, Reason.NEVER_A_CALL if by_selector else Reason.NO_CALL


def native_disposition(seen: Sighting | Site) -> Disposition:
    """The bucket of a site that is left as it is: one silent instruction spoils the group."""
    if any(form.is_unprivileged for form in seen.forms):
        return Disposition.NATIVE_UNPRIVILEGED
    return Disposition.NATIVE_TRAPPING
