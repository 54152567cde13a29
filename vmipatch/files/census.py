# SPDX-License-Identifier: MIT
"""Which sensitive instructions does a file have? The census of one kernel or module."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Final

from vmipatch.image.annotated import annotated_sites, annotations_of
from vmipatch.image.by_segments import with_sections
from vmipatch.image.elf import ElfImage
from vmipatch.image.entry_points import entry_points
from vmipatch.image.module import is_linked_module
from vmipatch.isa.decode import text_of
from vmipatch.names import base_name
from vmipatch.scan import Disposition, ScanResult, Site, scan
from vmipatch.scan.decodings import Decodings, decodings_of
from vmipatch.scan.ledger import ByteClass, SectionAccount
from vmipatch.scan.made import Made, made_at_run_time
from vmipatch.vmi.api13 import ROW_OF_13
from vmipatch.vmi.record13 import Annotations, Record13

SCHEMA: Final = "vmipatch.scan/2"


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """The sites of a kernel or module, and the account of its code."""

    kernel: str
    """The name of the file."""
    result: ScanResult = field(repr=False)
    """Sites, zones and tables, as the scanner gives them."""
    decodings: tuple[Decodings, ...] = field(repr=False)
    """Sensitive decodings at any byte, a section each."""
    made: tuple[Made, ...] = field(repr=False)
    """Code that the kernel makes while it runs."""
    annotations: Annotations | None = None
    """Whose the records in its annotation section are; None without one."""
    annotated: tuple[Record13, ...] = field(default=(), repr=False)
    """Its call sites of VMI API 13, in the order of the records."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site, in address order."""
        return tuple(self.result.sites)

    @property
    def tables_not_understood(self) -> tuple[str, ...]:
        """Places and reasons of the kernel's tables that fit no known layout.

        The census goes without them; `rewrite` refuses such a file.
        """
        return self.result.code_map.refused

    @property
    def has_unknown_annotations(self) -> bool:
        """Whether there are records that are neither a rewritten kernel's nor of API 13."""
        return self.annotations is Annotations.UNKNOWN

    def place_of(self, site: Site) -> str:
        """Function and offset of a site, such as `do_exit+0x8`."""
        return self.result.image.symbols.place_of(site.va)

    def counts(self) -> Counter[tuple[str, Disposition]]:
        """Number of sites by class and by what becomes of them."""
        return Counter((site.kind, site.disposition) for site in self.result.sites)

    def report(self) -> dict[str, Any]:
        """The JSON report (docs/schemas/scan-2.json)."""
        accounts = zip(self.result.ledger.sections, self.decodings, strict=True)
        return {
            "kernel": base_name(self.kernel),
            "sections": [_section(account, found) for account, found in accounts],
            "sites": [self._site(site) for site in self.result.sites],
            "evidence": self._evidence(),
            "made_at_run_time": [_made(each) for each in self.made],
            "tables_not_understood": list(self.tables_not_understood),
            "annotations": self.annotations and self.annotations.name.lower(),
            "annotated_sites": [self._annotated(record) for record in self.annotated],
        }

    def _annotated(self, record: Record13) -> dict[str, Any]:
        return {
            "address": record.native_va,
            "symbol": self.result.image.symbols.place_of(record.native_va),
            "call": int(record.call),
            "name": ROW_OF_13[record.call].name,
            "native": record.native.hex(),
            "padding": record.pad_len,
            "translation": record.translation.hex(),
        }

    def _site(self, site: Site) -> dict[str, Any]:
        image = self.result.image
        section = image.sections[site.section]
        return {
            "address": site.va - (section.va if is_linked_module(image) else 0),
            "section": section.name,
            "symbol": self.place_of(site),
            "bytes": site.code.hex(),
            "mnemonic": text_of(site.code, site.va),
            "class": site.kind,
            "vmi_call": None if site.call is None else int(site.call),
            "vmi_name": None if site.call is None else site.call.name,
            "disposition": site.disposition.value,
            "reason": site.reason.value,
            "evidence": self.result.why(site).value,
        }

    def _evidence(self) -> dict[str, Any]:
        """The grounds of the account, and how many sites it proves to be instructions."""
        image = self.result.image
        branches, astray = self.result.code_map.consistency
        unknown = sum(site.disposition is Disposition.UNKNOWN for site in self.sites)
        return {
            "symbols": len(image.symbols) > 0,
            "relocations": len(self.result.code_map.relocations) > 0,
            "entries": list(entry_points(image)),
            "branches": branches,
            "branches_astray": astray,
            "sites_proven": len(self.sites) - unknown,
            "sites_unknown": unknown,
        }


def census_of(image: ElfImage) -> Census:
    """The census of a kernel, or of a module as it is linked. Raises the errors of scan."""
    image = with_sections(image)
    result = scan(image, tolerant=True).proven()
    made = tuple(made_at_run_time(image))
    census = Census(image.name, result, tuple(decodings_of(result)), made)
    if is_linked_module(image):  # whose records are relocated when it is loaded
        return census
    return replace(census, annotations=annotations_of(image), annotated=annotated_sites(image))


def _section(account: SectionAccount, found: Decodings) -> dict[str, Any]:
    return {
        "name": account.name,
        "start_va": account.start_va,
        "end_va": account.end_va,
        "instructions": account.instructions,
        "bytes": {kind.name.lower(): account.length(kind) for kind in ByteClass},
        "evidence": {why.value: count for why, count in account.evidence.items()},
        "intervals": [
            f"{start:08x}-{end:08x} {kind.name.lower()}" for start, end, kind in account.intervals
        ],
        "decodings": {bucket.value: kinds for bucket, kinds in found.counts.items()},
        "decoding_intervals": [
            f"{start:08x}-{end:08x} {bucket.value} {count}"
            for start, end, bucket, count in found.intervals
        ],
    }


def _made(each: Made) -> dict[str, Any]:
    return {
        "what": each.maker.what,
        "template": each.template and f"{each.template[0]:08x}-{each.template[1]:08x}",
        "sensitive": each.sensitive,
        "reason": each.maker.reason,
        "source": each.maker.source,
    }
