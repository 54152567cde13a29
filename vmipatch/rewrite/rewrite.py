# SPDX-License-Identifier: MIT
"""A kernel in, the same kernel with room for VMI calls out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import START, records_in_room
from vmipatch.image.linked import LinkedKernel
from vmipatch.isa.decode import InstructionStream
from vmipatch.restore import Noted, Wanted, add_note
from vmipatch.rewrite.annotate import AnnotationSegment, annotate
from vmipatch.rewrite.attach import Added, attach, seal
from vmipatch.rewrite.body import NativeBody
from vmipatch.rewrite.boot_header import require_elf_loading, require_headers_found
from vmipatch.rewrite.build_id import renew_build_id
from vmipatch.rewrite.coherent import (
    require_accounted,
    require_branches_inside,
    require_branches_lead_to_instructions,
    require_decoded,
    require_operands,
    require_tables_lead_to_instructions,
    require_tables_name_operands,
    require_whole_functions,
    require_wide_branches,
    require_words_lead_to_image,
)
from vmipatch.rewrite.emit_code import emit_code
from vmipatch.rewrite.emit_image import OutOfLine, annotation_start_va, emit_image
from vmipatch.rewrite.entered import require_entered
from vmipatch.rewrite.manifest import Manifest, manifest_of
from vmipatch.rewrite.placement import Placement
from vmipatch.rewrite.plan import Plan, Treatment, make_plan
from vmipatch.rewrite.references import (
    Words,
    lead_relocations,
    lead_tables,
    require_words_whole,
)
from vmipatch.rewrite.suitable import require_relinkable
from vmipatch.rewrite.thunks import Thunks, build_thunks
from vmipatch.rewrite.trampoline import Trampoline, with_jumps
from vmipatch.scan.scan import ScanResult, scan
from vmipatch.scan.site import Site
from vmipatch.steps import step
from vmipatch.tables.kprobes import probe_first_bytes


@dataclass(frozen=True, slots=True)
class RewriteOptions:
    """How to rewrite."""

    padding: Padding | None = None
    """None: prefixes, or nops in a kernel whose kprobes look at the first byte alone."""
    keep_original: bool = False
    """Whether the note of the output holds even what a rewrite drops: debug sections."""
    start: str | None = None
    """The function before which the runtime runs, instead of start_kernel."""
    keep: tuple[str, ...] = ()
    """Code that is copied, or has 16 bits, each as two symbols around it: `START..END`."""

    @property
    def module_padding(self) -> Padding:
        """How sites of a module are filled up: which kernel it is for is not known."""
        return self.padding or Padding.PREFIX


@dataclass(frozen=True)
class RewrittenImage:
    """The new file, and everything that was decided on the way to it."""

    noted: Noted = field(repr=False)
    scan: ScanResult = field(repr=False)
    placement: Placement = field(repr=False)
    sites: tuple[tuple[Site, NativeBody], ...] = field(repr=False)
    """The widened sites with their new bodies, in address order."""
    trampolines: tuple[Trampoline, ...] = field(repr=False)
    manifest: Manifest = field(repr=False)

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        return self.noted.data

    @property
    def added_len(self) -> int:
        """Bytes by which the sites grew."""
        return sum(len(body.code) - len(site.code) for site, body in self.sites)

    @property
    def added_instructions(self) -> int:
        """How many instructions more all sites together are: nops, and jumps to and back."""
        jumps = sum(1 + trampoline.comes_back for trampoline in self.trampolines)
        return sum(body.added_instructions for _, body in self.sites) + jumps

    def treatments(self) -> Counter[Treatment]:
        """Number of sites by what was done to them."""
        return Counter(Treatment.of(site) for site in self.scan.sites)


def rewrite(
    kernel: LinkedKernel | ElfImage, options: RewriteOptions | None = None
) -> RewrittenImage:
    """Widen and annotate every site of `kernel`, and redirect every reference to the new places.

    An image stands for a kernel with relocations of its own. What `restore` gives back is the
    kernel's `source`. Only of a kernel whose `options.start` is named it is required that
    something enters it: else there may be no runtime.

    Raises InputNotUnderstood if the image has no relocations or symbols, is rewritten already or
    has bytes in its code that are none, UnclassifiedReference and the errors of scan.
    """
    options = options or RewriteOptions()
    kernel = LinkedKernel.of(kernel)
    image, source = kernel.image, kernel.source
    require_relinkable(image)
    with step("scanning"):
        found = scan(image, start=options.start or START, keep=options.keep)
        require_elf_loading(image)
        if options.start is not None:
            require_entered(found.code_map)
        _require_coherent(found, kernel)
    padding = options.padding or _padding_for(image)
    with step("laying out code"):
        plan = make_plan(found, padding, kernel)
    with step("relinking"):
        return _relinked(plan, padding, source, options)


def _require_coherent(found: ScanResult, kernel: LinkedKernel) -> None:
    """Raise InputNotUnderstood if code and tables do not fit each other."""
    require_decoded(found.code_map)
    require_tables_lead_to_instructions(found.code_map)
    require_tables_name_operands(found.code_map)
    require_words_lead_to_image(found.code_map)
    require_whole_functions(found.code_map)
    require_branches_inside(found)
    require_wide_branches(found)
    require_branches_lead_to_instructions(found.code_map)
    if not kernel.is_recovered:
        require_accounted(found)
        require_operands(found.code_map)


def _relinked(
    plan: Plan, padding: Padding, source: ElfImage, options: RewriteOptions
) -> RewrittenImage:
    """The file that `plan` describes, with the note that gives `source` back."""
    scanned, placement = plan.scanned, plan.placement
    require_words_whole(scanned.code_map, placement)
    thunks = build_thunks((site for site, _ in plan.sites), plan.room[0])
    annotations, room = _annotations(plan, thunks)
    words = _all_words(scanned, plan)
    added = attach(scanned.code_map, placement.map, room, thunks, annotations, words)
    words = words.redirected(added.words, placement, plan.moved_words)
    manifest = manifest_of(
        source, scanned.sites, placement, padding, added, plan.trampolines, options.keep
    )
    data = emit_image(
        scanned.image,
        placement,
        _emit_sections(plan, added),
        words,
        added,
        OutOfLine(*plan.trampoline_code, plan.moved_words),
        annotations,
        manifest.to_json(),
    )
    data = renew_build_id(seal(data, added.runtime, annotations))
    require_headers_found(scanned.image, data)
    wanted = Wanted(source, whole=options.keep_original)
    noted = add_note(data, wanted, placement.resized(wanted.image))
    return RewrittenImage(noted, scanned, placement, plan.sites, plan.trampolines, manifest)


def _padding_for(image: ElfImage) -> Padding:
    return Padding.NOP if probe_first_bytes(image) else Padding.PREFIX


def _annotations(plan: Plan, thunks: Thunks) -> tuple[AnnotationSegment, tuple[int, int]]:
    """The annotations at their place, and the room that is left for code."""
    start_va, end_va = plan.room
    if not records_in_room(plan.scanned.code_map.start):
        after_va = annotation_start_va(plan.scanned.image, plan.placement.shift_len)
        return _annotate(plan, thunks, after_va), plan.room
    parts = _annotate(plan, thunks, start_va).parts  # for their lengths
    records_va = end_va - (parts[-1].end_va - parts[0].va)
    return _annotate(plan, thunks, records_va), (start_va, records_va)


def _annotate(plan: Plan, thunks: Thunks, start_va: int) -> AnnotationSegment:
    image = plan.scanned.image
    init_text = image.section_by_name.get(".init.text")
    init_index = -1 if init_text is None else init_text.index
    out_of_line = plan.places.out_of_line
    # Trampolines of init code are in permanent memory.
    init = [(s, b) for s, b in plan.sites if s.section == init_index and s.va not in out_of_line]
    permanent = [(s, b) for s, b in plan.sites if s.section != init_index or s.va in out_of_line]
    return annotate(permanent, init, plan.scanned.sites, plan.places, thunks, start_va)


def _emit_sections(plan: Plan, added: Added) -> dict[int, bytes]:
    out_of_line = {va for t in plan.trampolines for va in t.places}
    by_va = {site.va: (site, body) for site, body in plan.sites if site.va not in out_of_line}
    placement = plan.placement

    def emit(index: int, stream: InstructionStream) -> bytes:
        changes = placement.changes.get(index, ())
        linked = plan.scanned.code_map.linked_targets(stream)
        code = emit_code(stream, changes, by_va, placement.map, added.branches, linked)
        return with_jumps(code, stream, plan.trampolines, placement.map)

    return {section.index: emit(section.index, stream) for section, stream in plan.scanned.code_map}


def _all_words(scanned: ScanResult, plan: Plan) -> Words:
    relocated = lead_relocations(scanned.code_map, plan.placement, plan.moved_words)
    tables = lead_tables(scanned.code_map, plan.placement)
    return Words(
        np.concatenate([relocated.va, tables.va]), np.concatenate([relocated.value, tables.value])
    )
