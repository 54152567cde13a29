# SPDX-License-Identifier: MIT
"""The annotation records of a rewritten kernel, and the translations they name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vmipatch.rewrite.address_map import AddressMap
from vmipatch.rewrite.body import Body
from vmipatch.scan.site import Site
from vmipatch.vmi.record import NEAR_CALL, NEAR_CALL_LEN, AnnotationRecord, pack_records


@dataclass(frozen=True, slots=True)
class Annotations:
    """Three sections, and where they are linked.

    Records of init code stand apart: they are applied once, the others may be applied again.
    Addresses in records are linked ones; the runtime adds what the boot loader relocated by.
    """

    start_va: int
    records: bytes
    init_records: bytes
    translations: bytes

    @property
    def init_va(self) -> int:
        """Where the records of init code begin."""
        return self.start_va + len(self.records)

    @property
    def translation_va(self) -> int:
        """Where the translations begin."""
        return self.init_va + len(self.init_records)

    @property
    def end_va(self) -> int:
        """First address behind the translations."""
        return self.translation_va + len(self.translations)


def annotate(
    sites: Iterable[tuple[Site, Body]],
    init_sites: Iterable[tuple[Site, Body]],
    new: AddressMap,
    start_va: int,
) -> Annotations:
    """Describe every site. All sites that call the ROM directly share one translation."""
    permanent, init = list(sites), list(init_sites)
    lengths = 16 * len(permanent), 16 * len(init)
    translation_va = start_va + sum(lengths)

    def pack(group: list[tuple[Site, Body]]) -> bytes:
        return pack_records(_record(site, body, new, translation_va) for site, body in group)

    return Annotations(start_va, pack(permanent), pack(init), NEAR_CALL)


def _record(site: Site, body: Body, new: AddressMap, translation_va: int) -> AnnotationRecord:
    assert site.call is not None, "a site is rewritten because a call stands for it"
    return AnnotationRecord(
        call=site.call,
        native_va=new.one(site.va),
        translation_va=translation_va,
        native_len=len(body.code),
        translation_len=NEAR_CALL_LEN,
        pad_len=body.pad_len,
        call_off=0,
    )
