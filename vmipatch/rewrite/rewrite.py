# SPDX-License-Identifier: MIT
"""A kernel in, the same kernel with room for VMI calls out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.isa.decode import InstructionStream
from vmipatch.restore import Noted, Wanted, add_note
from vmipatch.rewrite.annotate import Annotations, annotate
from vmipatch.rewrite.attach import Added, attach, seal
from vmipatch.rewrite.body import Body, Padding, body_of, give_up
from vmipatch.rewrite.build_id import renew_build_id
from vmipatch.rewrite.emit_code import emit_code
from vmipatch.rewrite.emit_image import annotation_start_va, emit_image
from vmipatch.rewrite.manifest import Manifest, manifest_of
from vmipatch.rewrite.placement import InitOverflow, Placement, place
from vmipatch.rewrite.references import Words, lead_relocations, lead_tables
from vmipatch.rewrite.region import Region
from vmipatch.rewrite.suitable import require_decoded, require_relinkable
from vmipatch.rewrite.thunks import Thunks, build_thunks, untranslatable
from vmipatch.scan.scan import ScanResult, scan
from vmipatch.scan.site import Reason, Site

ROOM_LEN = 0x3000
"""Bytes kept free at the end of .text for the runtime (one page) and thunks (two)."""

SITE_ROOM_ALIGN = 16


@dataclass(frozen=True, slots=True)
class RewriteOptions:
    """How to rewrite."""

    padding: Padding = Padding.PREFIX
    keep_original: bool = False
    """Whether the note of the output holds even what a rewrite drops: debug sections."""


@dataclass(frozen=True)
class RewrittenImage:
    """The new file, and everything that was decided on the way to it."""

    noted: Noted
    scan: ScanResult
    placement: Placement
    sites: tuple[tuple[Site, Body], ...]
    """The widened sites with their new bodies, in address order."""
    manifest: Manifest

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        return self.noted.data

    @property
    def added_len(self) -> int:
        """Bytes by which the sites grew."""
        return sum(len(body.code) - len(site.code) for site, body in self.sites)


def rewrite(image: ElfImage, options: RewriteOptions | None = None) -> RewrittenImage:
    """Widen and annotate every site of `image`, and lead every reference to the new places.

    Raises InputNotUnderstood if the image has no relocations or symbols, is rewritten already or
    has bytes in its code that are none, UnclassifiedReference and the errors of scan.
    """
    options = options or RewriteOptions()
    require_relinkable(image)
    found = scan(image)
    require_decoded(found.code_map)
    scanned, bodies, placement = _plan(found, options.padding)
    room = _room_start(placement), placement.room_end_va
    thunks = build_thunks((site for site, _ in bodies), room[0])
    annotations = _annotate(scanned, bodies, placement, thunks)
    words = _all_words(scanned, placement)
    added = attach(scanned.code_map, placement.map, room, thunks, annotations, words)
    manifest = manifest_of(image, scanned.sites, placement, options.padding, added)
    data = emit_image(
        image,
        placement,
        _emit_sections(scanned, bodies, placement, added),
        words,
        added,
        annotations,
        manifest.to_json(),
    )
    data = renew_build_id(seal(data, added.runtime, annotations))
    wanted = Wanted(image, whole=options.keep_original)
    noted = add_note(data, wanted, placement.resized())
    return RewrittenImage(noted, scanned, placement, tuple(bodies), manifest)


def _plan(
    scanned: ScanResult, padding: Padding
) -> tuple[ScanResult, list[tuple[Site, Body]], Placement]:
    """Lay the code out; if .init.text overflows, leave as many of its sites native as it takes."""
    scanned = scanned.leaving(untranslatable(scanned.rewritten), Reason.NO_TRANSLATION)
    while True:
        bodies = [(site, body_of(site, padding)) for site in scanned.rewritten]
        regions = _regions(scanned, bodies)
        try:
            placement = place(
                scanned.code_map,
                scanned.zones,
                regions[".text"],
                regions.get(".init.text"),
                ROOM_LEN,
            )
            return scanned, bodies, placement
        except InitOverflow as overflow:
            init = regions[".init.text"]
            scanned = scanned.leaving(give_up(init.sites, overflow.missing), Reason.NO_ROOM)


def _regions(scanned: ScanResult, bodies: list[tuple[Site, Body]]) -> dict[str, Region]:
    return {
        section.name: Region.of(
            scanned.code_map,
            scanned.zones,
            stream,
            [(site, body) for site, body in bodies if site.section == section.index],
        )
        for section, stream in scanned.code_map
        if section.name in (".text", ".init.text")
    }


def _annotate(
    scanned: ScanResult,
    bodies: Iterable[tuple[Site, Body]],
    placement: Placement,
    thunks: Thunks,
) -> Annotations:
    image = scanned.image
    text = image.section_by_name[".text"].index
    permanent = [pair for pair in bodies if pair[0].section == text]
    init = [pair for pair in bodies if pair[0].section != text]
    start_va = annotation_start_va(image, placement.shift_len)
    return annotate(permanent, init, scanned.sites, placement.map, thunks, start_va)


def _emit_sections(
    scanned: ScanResult, bodies: list[tuple[Site, Body]], placement: Placement, added: Added
) -> dict[int, bytes]:
    by_va = {site.va: (site, body) for site, body in bodies}

    def emit(index: int, stream: InstructionStream) -> bytes:
        changes = placement.changes.get(index, ())
        return emit_code(stream, changes, by_va, placement.map, added.redirect)

    return {section.index: emit(section.index, stream) for section, stream in scanned.code_map}


def _all_words(scanned: ScanResult, placement: Placement) -> Words:
    relocated = lead_relocations(scanned.code_map, placement)
    tables = lead_tables(scanned.code_map, placement)
    return Words(
        np.concatenate([relocated.va, tables.va]), np.concatenate([relocated.value, tables.value])
    )


def _room_start(placement: Placement) -> int:
    return -(-placement.text_end_va // SITE_ROOM_ALIGN) * SITE_ROOM_ALIGN
