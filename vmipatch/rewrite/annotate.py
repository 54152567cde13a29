# SPDX-License-Identifier: MIT
"""What does a rewritten kernel carry for the runtime? Records, translations, tables."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from vmipatch.rewrite.address_map import AddressMap, Places
from vmipatch.rewrite.body import NativeBody
from vmipatch.rewrite.thunks import Thunks
from vmipatch.scan.site import Disposition, Reason, Site
from vmipatch.vmi.record import (
    FINAL_TRANSLATION,
    MERGE_FLAGS,
    NEAR_CALL,
    NEAR_CALL_LEN,
    RECORD_LEN,
    AnnotationRecord,
    pack_records,
)

_PAIR = struct.Struct("<II")

NOT_RUN_DEPRIVILEGED = frozenset({Reason.REPLACEMENT})
"""Native code that is not executed after the switch: replacements run where they are copied to."""


@dataclass(frozen=True, slots=True)
class AnnotationPart:
    """One section of the annotation segment."""

    name: str
    symbol: str
    va: int
    data: bytes = field(repr=False)

    @property
    def end_va(self) -> int:
        """First address after the part."""
        return self.va + len(self.data)


@dataclass(frozen=True, slots=True)
class AnnotationSegment:
    """The parts of the segment, in address order.

    Records of init code stand apart, right after the others: they are applied once. Addresses
    are linked ones; the runtime adds what the boot loader relocated by.
    """

    records: AnnotationPart
    init_records: AnnotationPart
    translations: AnnotationPart
    thunk_calls: AnnotationPart
    fallback: AnnotationPart

    @property
    def parts(self) -> tuple[AnnotationPart, ...]:
        """All of them."""
        return (
            self.records, self.init_records, self.thunk_calls, self.fallback, self.translations
        )  # fmt: skip


def annotate(
    sites: Iterable[tuple[Site, NativeBody]],
    init_sites: Iterable[tuple[Site, NativeBody]],
    left: Iterable[Site],
    new: AddressMap | Places,
    thunks: Thunks,
    start_va: int,
    stride: int = 0,
) -> AnnotationSegment:
    """Describe every site, and those that were left though they are unprivileged.

    Sites that call the ROM directly share one translation, and so do those of one thunk: it calls
    the thunk from where it stands, and a copy needs the distance corrected. With a
    `stride`, as in a module, each part has a section of its own, that far after the one before,
    which the loader places as it likes.
    """
    permanent, init = list(sites), list(init_sites)
    calls = b"".join(_PAIR.pack(call.va, call.call) for call in thunks.calls)
    calls += b"".join(_PAIR.pack(va, MERGE_FLAGS) for va in thunks.merges)
    fallback = _fallback(left, new)
    lens = (RECORD_LEN * len(permanent), RECORD_LEN * len(init), len(calls), len(fallback))
    vas = [start_va + (stride * i if stride else sum(lens[:i])) for i in range(1, 5)]
    init_va, calls_va, fallback_va, translation_va = vas
    translator = _Translator(new, thunks, translation_va)
    records = pack_records(sorted((translator.record(*pair) for pair in permanent), key=_likeness))
    init_records = pack_records(sorted((translator.record(*pair) for pair in init), key=_likeness))
    pad = bytes(-len(translator.bytes) % 4)
    return AnnotationSegment(
        AnnotationPart(".vmi.annotation", "__vmi_annotation", start_va, records),
        AnnotationPart(".vmi.annotation.init", "__vmi_annotation_init", init_va, init_records),
        AnnotationPart(
            ".vmi.translation", "__vmi_translation", translator.va, bytes(translator.bytes) + pad
        ),
        AnnotationPart(".vmi.thunks", "__vmi_thunk_calls", calls_va, calls),
        AnnotationPart(".vmi.fallback", "__vmi_fallback", fallback_va, fallback),
    )


def most_records(sites: Iterable[Site], thunks: Thunks) -> int:
    """At most so many bytes all parts of `annotate` take together, whatever stays native."""
    every = list(sites)
    translations = NEAR_CALL_LEN * (1 + len(set(thunks.of_site.values())))
    pairs = len(thunks.calls) + len(thunks.merges) + len(every)
    return (RECORD_LEN * len(every) + _PAIR.size * pairs + translations + 3) & ~3


class _Translator:
    """Writes records, and the translations that they need."""

    def __init__(self, new: AddressMap | Places, thunks: Thunks, va: int) -> None:
        self.va, self.bytes = va, bytearray(NEAR_CALL)
        self._new, self._thunks = new, thunks
        self._made: dict[int, int] = {}

    def record(self, site: Site, body: NativeBody) -> AnnotationRecord:
        assert site.call is not None, "a site is rewritten because a call stands for it"
        native_va = self._new.one(site.va)
        thunk_va = self._thunks.of_site.get(site.va)
        translation_va, call_off = self.va, 0
        if thunk_va is not None:
            translation_va, call_off = self._final(thunk_va), FINAL_TRANSLATION
        return AnnotationRecord(
            call=site.call,
            native_va=native_va,
            translation_va=translation_va,
            native_len=len(body.code),
            translation_len=NEAR_CALL_LEN,
            pad_len=body.pad_len,
            call_off=call_off,
        )

    def _final(self, thunk_va: int) -> int:
        """Address of the translation that calls `thunk_va`."""
        if thunk_va not in self._made:
            va = self._made[thunk_va] = self.va + len(self.bytes)
            self.bytes += b"\xe8" + struct.pack("<i", thunk_va - va - NEAR_CALL_LEN)
        return self._made[thunk_va]


def _likeness(record: AnnotationRecord) -> tuple[int, ...]:
    """Like stands by like: then the kernel packs best."""
    return (
        record.call, record.translation_va, record.native_len, record.pad_len, record.native_va
    )  # fmt: skip


def _fallback(left: Iterable[Site], new: AddressMap | Places) -> bytes:
    """Address and original first byte of each site that would be silently wrong at CPL 1."""
    return b"".join(
        _PAIR.pack(new.one(site.va), site.code[0])
        for site in left
        if site.disposition is Disposition.NATIVE_UNPRIVILEGED
        and site.reason not in NOT_RUN_DEPRIVILEGED
    )
