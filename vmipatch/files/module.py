# SPDX-License-Identifier: MIT
"""What can be done with a module, packed or not?"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from vmipatch.files.entry import Entry, FileOutcome, Left
from vmipatch.files.file import File, sha256_of
from vmipatch.image.module import Module
from vmipatch.image.packed import pack, packing_of, usual
from vmipatch.names import base_name

if TYPE_CHECKING:
    from vmipatch.files.census import Census
    from vmipatch.files.diagnosis import Diagnosis
    from vmipatch.files.verification import Verification
    from vmipatch.restore import Restored
    from vmipatch.rewrite import RewriteOptions
    from vmipatch.rewrite.module import RewrittenModule

LOADED_BY = "the rewritten kernel that loads it runs it"


@dataclass(frozen=True)
class ModuleFile(File):
    """A kernel module (.ko), maybe packed by gzip, xz or zstd."""

    data: bytes = field(repr=False, compare=False)
    """The file as it is stored."""
    unpacked: bytes = field(repr=False, compare=False)
    """The ELF file, with its signature if it has one."""

    @cached_property
    def module(self) -> Module:
        """The module, linked as a loader would. Raises as Module.parse does."""
        return Module.parse(self.unpacked, self.name)

    def scan(self) -> Census:
        """Its sensitive instructions. Raises the errors of `module` and of vmipatch.scan.scan."""
        from vmipatch.files.census import census_of

        return census_of(self.module.image)

    def rewrite(self, options: RewriteOptions | None = None) -> RewrittenModuleFile:
        """The module with VMI call sites, packed as it was.

        A module without sites that become calls stays as it is. Raises as
        vmipatch.rewrite.module.rewrite_module does.
        """
        from vmipatch.rewrite.module import rewrite_module

        result = rewrite_module(self.unpacked, self.name, options, self.data)
        data = self.data
        if result.is_changed:
            data = pack(result.data, result.recipe or usual(packing_of(self.data)))
        return RewrittenModuleFile(self, data, result)

    def doctor(self) -> Diagnosis:
        """Find what `rewrite` will do, refuse and lose: the module is rewritten in memory."""
        from vmipatch.files.diagnosis import diagnose

        return diagnose(self)

    def verify(self, original: ModuleFile) -> Verification:
        """Prove that this module is `original`, laid out anew. Raises as `module` does."""
        from vmipatch.files.verification import verify_module

        return verify_module(self, original)

    def restore(self) -> Restored:
        """The file that this one was made from.

        Raises InputNotUnderstood if it is not an output of `rewrite`, or was changed since.
        """
        from vmipatch.restore import restore_module

        return restore_module(self.data, self.name)

    @property
    def is_rewritten(self) -> bool:
        """Whether it holds annotations of `rewrite`."""
        from vmipatch.rewrite.module import MARK

        return MARK in self.module.file.section_by_name

    def run(self, *_: object, **__: object) -> NoReturn:
        """Raise NotServed."""
        self.refuse("does not boot", LOADED_BY)

    def wrap(self, *_: object, **__: object) -> NoReturn:
        """Raise NotServed."""
        self.refuse("does not boot", LOADED_BY)

    def xen_image(self, *_: object, **__: object) -> NoReturn:
        """Raise NotServed."""
        self.refuse("does not boot", LOADED_BY)


@dataclass(frozen=True, slots=True, eq=False)
class RewrittenModuleFile:
    """A module with VMI call sites, or the input where there was nothing to do."""

    file: ModuleFile
    """The file that was rewritten."""
    data: bytes = field(repr=False)
    """The new file, packed as the old one."""
    result: RewrittenModule = field(repr=False)
    """The module, not packed, and what was done to it."""

    @property
    def sha256(self) -> str:
        """Of the new file, in hexadecimal."""
        return sha256_of(self.data)

    def entry(self, path: str) -> Entry:
        """Its outcome, as a line of a tree's report."""
        result = self.result
        return Entry(
            path=path,
            outcome=FileOutcome.REWRITTEN if result.is_changed else FileOutcome.UNTOUCHED,
            sites=len(result.sites),
            left=Left.of(result.scan),
            added_len=sum(len(body.code) - len(site.code) for site, body in result.sites),
            signature_len=result.signature_len if result.is_changed else 0,
            gives=result.noted.gives.label if result.noted else "",
            input_sha256=self.file.sha256,
            output_sha256=self.sha256,
        )

    def report(self, output: str) -> dict[str, Any]:
        """The JSON report (docs/schemas/tree-1.json): a tree of one module."""
        from vmipatch.files.tree_report import tree_report

        name = base_name(output)
        return tree_report(name, [self.entry(name)])
