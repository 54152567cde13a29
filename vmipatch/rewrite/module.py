# SPDX-License-Identifier: MIT
"""A module in, the same module with room for VMI calls out.

The road is the kernel's (`rewrite.py`), over the linked image of the module; but every section of
code may grow as it needs, and thunks and annotations are sections of the module like others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from vmipatch.errors import InputNotUnderstood, MalformedImage, NotSupported
from vmipatch.image.module import REGION_LEN, Module, ModuleRegions
from vmipatch.image.packed import recipe_of
from vmipatch.image.packing import Recipe
from vmipatch.image.types import SectionKind
from vmipatch.isa.decode import InstructionStream
from vmipatch.limits import Limit
from vmipatch.restore import Noted, WantedModule, add_module_note
from vmipatch.rewrite.annotate import annotate
from vmipatch.rewrite.attach import attach_thunks
from vmipatch.rewrite.body import NativeBody, body_of
from vmipatch.rewrite.build_id import renew_build_id
from vmipatch.rewrite.coherent import (
    require_decoded,
    require_led_to_instructions,
    require_operands,
    require_whole_functions,
    require_wide_branches,
)
from vmipatch.rewrite.emit_code import emit_code
from vmipatch.rewrite.emit_module import emit_module
from vmipatch.rewrite.manifest import Manifest, manifest_of
from vmipatch.rewrite.placement import Placement, place_apart
from vmipatch.rewrite.reach import OutOfReach
from vmipatch.rewrite.references import (
    Words,
    lead_relocations,
    lead_tables,
    require_words_whole,
)
from vmipatch.rewrite.region import Region
from vmipatch.rewrite.rewrite import RewriteOptions
from vmipatch.rewrite.suitable import NAMES_AT, added_sections
from vmipatch.rewrite.thunks import build_thunks, untranslatable
from vmipatch.scan.scan import ScanResult, scan
from vmipatch.scan.site import Reason, Site

MARK = ".vmi.annotation"
"""The section by which a rewritten module is known, to us and to the kernel that loads it."""
INIT_PREFIX = ".init"
"""Beginning of the names of sections that the loader frees (kernel/module/main.c)."""


@dataclass(frozen=True)
class RewrittenModule:
    """The new file, and what was decided on the way to it."""

    data: bytes = field(repr=False)
    scan: ScanResult = field(repr=False)
    sites: tuple[tuple[Site, NativeBody], ...] = field(repr=False)
    """The widened sites with their new bodies, in address order."""
    manifest: Manifest | None = field(repr=False)
    """None if there was nothing to do: `data` is the input then, signature included."""
    signature_len: int
    """Bytes of the signature that the input had after it; a rewritten module has none."""
    noted: Noted | None = None
    """The input that comes back from `data`; None if there was nothing to do."""
    recipe: Recipe | None = None
    """How the input was packed, if that is known."""

    @property
    def is_changed(self) -> bool:
        """Whether anything was rewritten."""
        return self.manifest is not None


def rewrite_module(
    data: bytes, name: str, options: RewriteOptions | None = None, stored: bytes | None = None
) -> RewrittenModule:
    """Widen and annotate every site of the module in `data`.

    `stored` is the file that `data` was unpacked from, which `restore` shall give back. A module
    without sites that become calls stays as it is. Raises InputNotUnderstood if it is rewritten
    already or has bytes in its code that are none, MalformedImage, MalformedTable,
    UnclassifiedReference, and EnvironmentProblem without the library that packed it.
    """
    options = options or RewriteOptions()
    module = Module.parse(data, name)
    if added := added_sections(module.file):
        raise InputNotUnderstood(
            "this module is rewritten already", file=name, place=added[0],
            hint="rewrite the module as the build left it",
        )  # fmt: skip
    names = int.from_bytes(module.file.data[NAMES_AT : NAMES_AT + 2], "little")
    if not any(s.kind is SectionKind.SYMTAB for s in module.file.sections):
        raise MalformedImage("the module has no symbol table", file=name, place="section headers")
    if any(s.kind is SectionKind.SYMTAB and s.link == names for s in module.file.sections):
        raise NotSupported(
 Limit.ONE_NAME_TABLE,

            "symbols and sections have their names in one table", file=name, place=".symtab",
        )  # fmt: skip
    scanned = scan(module.image)
    scanned = scanned.leaving(untranslatable(scanned.rewritten), Reason.NO_TRANSLATION)
    if not scanned.rewritten:
        return RewrittenModule(data, scanned, (), None, module.signature_len)
    require_decoded(scanned.code_map)
    require_led_to_instructions(scanned.code_map)
    require_whole_functions(scanned.code_map)
    require_operands(scanned.code_map)
    require_wide_branches(scanned)
    code_map = scanned.code_map
    scanned, bodies, placement = _placed(scanned, options)
    if not bodies:
        return RewrittenModule(data, scanned, (), None, module.signature_len)
    require_words_whole(code_map, placement)
    new_data, manifest = _emit(module, scanned, placement, bodies, options, data)
    stored = stored or data
    recipe = recipe_of(stored, data)
    digest = hashlib.sha256(stored).hexdigest()
    wanted = WantedModule(data, name, recipe, digest, options.keep_original)
    noted = add_module_note(new_data, wanted, placement.all_changes())
    return RewrittenModule(
        noted.data, scanned, tuple(bodies), manifest, module.signature_len, noted, recipe
    )


def _placed(
    scanned: ScanResult, options: RewriteOptions
) -> tuple[ScanResult, list[tuple[Site, NativeBody]], Placement]:
    """The layout, with the sites left native over which a branch would miss its target."""
    while True:
        bodies = [(site, body_of(site, options.module_padding)) for site in scanned.rewritten]
        regions = _regions(scanned, bodies)
        try:
            return scanned, bodies, place_apart(scanned.code_map, scanned.zones, regions)
        except OutOfReach as error:
            scanned = scanned.leaving(error.sites_to_leave(bodies), Reason.SHORT_BRANCH)


def _emit(
    module: Module,
    scanned: ScanResult,
    placement: Placement,
    bodies: list[tuple[Site, NativeBody]],
    options: RewriteOptions,
    data: bytes,
) -> tuple[bytes, Manifest]:
    code_map = scanned.code_map
    first, regions = len(module.file.sections), ModuleRegions.of(module.file.sections)
    thunks = build_thunks((site for site, _ in bodies), regions.va(first))
    init = {s.index for s in module.file.sections if s.name.startswith(INIT_PREFIX)}
    annotations = annotate(
        [pair for pair in bodies if pair[0].section not in init],
        [pair for pair in bodies if pair[0].section in init],
        scanned.sites,
        placement.map,
        thunks,
        regions.va(first + 1),
        REGION_LEN,
    )
    relocated = lead_relocations(code_map, placement)
    tables = lead_tables(code_map, placement)
    words = Words(
        np.concatenate([relocated.va, tables.va]), np.concatenate([relocated.value, tables.value])
    )
    added = attach_thunks(code_map, placement.map, thunks, words)
    manifest = replace(
        manifest_of(module.file, scanned.sites, placement, options.module_padding, added),
        input_sha256=hashlib.sha256(data).hexdigest(),
    )
    by_va = {site.va: (site, body) for site, body in bodies}

    def emit(index: int, stream: InstructionStream) -> bytes:
        changes, linked = placement.changes.get(index, ()), code_map.linked_targets(stream)
        return emit_code(stream, changes, by_va, placement.map, {}, linked)

    code = {section.index: emit(section.index, stream) for section, stream in code_map}
    file = emit_module(module, placement, code, words, added, annotations, manifest.to_json())
    return renew_build_id(file), manifest


def _regions(scanned: ScanResult, bodies: list[tuple[Site, NativeBody]]) -> list[Region]:
    """The sections that have sites; the others keep every byte."""
    with_sites = {site.section for site, _ in bodies}
    return [
        Region.of(
            scanned.code_map,
            scanned.zones,
            stream,
            [(site, body) for site, body in bodies if site.section == section.index],
            max(section.align, 2),
        )
        for section, stream in scanned.code_map
        if section.index in with_sites
    ]
