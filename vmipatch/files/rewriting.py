# SPDX-License-Identifier: MIT
"""What came of rewriting a kernel? The new file, what was done, what was lost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from vmipatch.choices import BootCodeChoice
from vmipatch.files.beside import linked_with
from vmipatch.files.file import sha256_of
from vmipatch.files.kind import Kind
from vmipatch.files.maps import address_map
from vmipatch.files.system_map import system_map
from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import START
from vmipatch.image.linked import LinkedKernel
from vmipatch.image.relocations import has_relocations
from vmipatch.image.twin import require_same_bytes
from vmipatch.names import base_name
from vmipatch.recover import complete
from vmipatch.restore import Noted
from vmipatch.rewrite import RewriteOptions, RewrittenImage, Treatment, rewrite
from vmipatch.rewrite.bzimage import RewrittenBzImage, rewrite_bzimage
from vmipatch.steps import step

if TYPE_CHECKING:
    from vmipatch.files.kernel import KernelFile

SCHEMA: Final = "vmipatch.rewrite/1"


@dataclass(frozen=True, slots=True, eq=False)
class RewrittenKernel:
    """A kernel with VMI call sites, in a file of the kind it came in."""

    name: str
    """The file that was rewritten."""
    kind: Kind
    """The same of input and output."""
    kernel: RewrittenImage = field(repr=False)
    """The vmlinux: of a bzImage, what it holds."""
    packed: RewrittenBzImage | None = field(repr=False)
    """The bzImage, None of a vmlinux."""
    is_recovered: bool
    """Whether symbols and relocations had to be recovered."""

    @property
    def data(self) -> bytes:
        """The new file."""
        return self.packed.data if self.packed else self.kernel.data

    @property
    def sha256(self) -> str:
        """Of the new file, in hexadecimal."""
        return sha256_of(self.data)

    @property
    def vmlinux(self) -> bytes:
        """The ELF file with symbols and relocations: the new file itself, or what it holds."""
        return self.kernel.data

    @property
    def noted(self) -> Noted | None:
        """The part that `restore` gives back of the new file; None if nothing."""
        return self.packed.noted if self.packed else self.kernel.noted

    def system_map(self) -> str:
        """The System.map of the new kernel, as its build would have written it."""
        return system_map(ElfImage.parse(self.kernel.data, self.name))

    def address_map(self) -> str:
        """Old and new addresses, a line for each range that moved as one."""
        return address_map(self.kernel)

    def report(self, output: str) -> dict[str, Any]:
        """The JSON report without the hashes of outputs (docs/schemas/rewrite-1.json).

        `output` is the name of the new file.
        """
        return _kernel_report(self, output) | _packed_report(self.packed)


def rewrite_kernel(
    file: KernelFile,
    options: RewriteOptions | None,
    debug: KernelFile | None,
    boot_code: BootCodeChoice,
) -> RewrittenKernel:
    """As KernelFile.rewrite says."""
    options = options or RewriteOptions()
    _require_served(file, options, debug, boot_code)
    options = replace(options, start=options.start or START)
    with step("reading symbols and relocations"):
        linked = linked_kernel(file, debug, whole=options.keep_original)
    if file.bzimage is None:
        made = rewrite(linked, options)
        return RewrittenKernel(file.name, file.kind, made, None, linked.is_recovered)
    packed = rewrite_bzimage(file.data, file.bzimage, linked, options, boot_code)
    return RewrittenKernel(file.name, file.kind, packed.kernel, packed, linked.is_recovered)


def linked_kernel(file: KernelFile, debug: KernelFile | None, *, whole: bool) -> LinkedKernel:
    """The kernel in `file` and all that is known of it, by its debug twin if it has one."""
    linked = file.linked if debug is None else _twin(file, debug)
    return linked if whole else linked.without_debug()


def _twin(file: KernelFile, debug: KernelFile) -> LinkedKernel:
    """The debug twin; if its build took its relocations out, with what is beside it, or listed."""
    relocs = None if file.bzimage is None else file.bzimage.relocs
    if has_relocations(debug.image) or file.bzimage is None or relocs is None:
        return LinkedKernel.complete(debug.image)
    if debug.beside is not None and not debug.beside.is_list:
        return linked_with(debug.image, debug.beside)
    require_same_bytes(file.bzimage, debug.image)
    return complete(debug.image, relocs).kernel


def _require_served(
    file: KernelFile,
    options: RewriteOptions,
    debug: KernelFile | None,
    boot_code: BootCodeChoice,
) -> None:
    if file.kind is not Kind.BZIMAGE and debug is not None:
        file.refuse("has no debug twin", "give the vmlinux with its symbols itself")
    if file.kind is not Kind.BZIMAGE and boot_code is not BootCodeChoice.AUTO:
        file.refuse("has no boot code", "leave the choice of boot code out")
    if file.kind is not Kind.VMLINUX and options.start is not None:
        file.refuse("holds Linux, which begins at start_kernel", "leave the name of a start out")
    if file.kind is not Kind.VMLINUX and options.keep:
        file.refuse("holds Linux, whose copied code is known", "leave out what is to be kept")
    if debug is not None and debug.kind is not Kind.VMLINUX:
        debug.refuse("is not a debug twin", "give the vmlinux with symbols and relocations")
    for each in (file, debug):
        if options.keep_original and each is not None and each.trimmed:
            each.refuse("was opened without debug information", "open it with keep_debug")


def _kernel_report(done: RewrittenKernel, output: str) -> dict[str, Any]:
    result, noted = done.kernel, done.noted
    manifest = result.manifest
    place = result.scan.image.symbols.place_of
    return {
        "kernel": base_name(done.name),
        "output": base_name(output),
        "input": "recovered" if done.is_recovered else "linked",
        "mode": manifest.mode,
        "shift_len": manifest.shift_len,
        "padding": manifest.padding,
        "input_sha256": manifest.input_sha256,
        "sites": manifest.sites,
        "added_len": result.added_len,
        "added_instructions": result.added_instructions,
        "treatments": {each.value: result.treatments()[each] for each in Treatment},
        "dropped": list(manifest.dropped),
        "restore": noted
        and {"gives": noted.gives.label, "sha256": noted.sha256, "note_len": noted.note_len},
        "native": [
            {"address": site.va, "class": site.kind, "disposition": site.disposition,
             "reason": site.reason}
            for site in manifest.native
        ],
        "all_sites": [
            {"address": site.va, "place": place(site.va), "class": site.kind,
             "treatment": Treatment.of(site).value, "reason": site.reason.value}
            for site in result.scan.sites
        ],
    }  # fmt: skip


def _packed_report(packed: RewrittenBzImage | None) -> dict[str, Any]:
    if packed is None:
        return {}
    return {
        "bzimage": {
            "output_len": len(packed.data),
            "boot_code": packed.boot_code.value,
            "compression": packed.recipe.compression.label,
            "recipe": str(packed.recipe),
            "recipe_repeats_original": packed.repeats,
            "lost": list(packed.losses),
        }
    }
