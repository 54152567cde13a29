# SPDX-License-Identifier: MIT
"""Which sensitive instructions does a file have? The census of one kernel or module."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_linked_module
from vmipatch.isa.decode import text_of
from vmipatch.scan import Disposition, ScanResult, Site, scan
from vmipatch.scan.decodings import Decodings, decodings_of
from vmipatch.scan.ledger import ByteClass, SectionAccount
from vmipatch.scan.made import Made, made_at_run_time

SCHEMA: Final = "vmipatch.scan/2"


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """The sites of a kernel or module, and the account of its code."""

    kernel: str
    """The name of the file."""
    result: ScanResult = field(repr=False)
    decodings: tuple[Decodings, ...] = field(repr=False)
    """Sensitive decodings at any byte, a section each."""
    made: tuple[Made, ...] = field(repr=False)
    """Code that the kernel makes while it runs."""

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
            "kernel": self.kernel,
            "sections": [_section(account, found) for account, found in accounts],
            "sites": [self._site(site) for site in self.result.sites],
            "made_at_run_time": [_made(each) for each in self.made],
            "tables_not_understood": list(self.tables_not_understood),
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
        }


def census_of(image: ElfImage) -> Census:
    """The census of a kernel, or of a module as it is linked. Raises the errors of scan."""
    result = scan(image, tolerant=True)
    made = tuple(made_at_run_time(image))
    return Census(image.name, result, tuple(decodings_of(result)), made)


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
