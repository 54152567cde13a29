# SPDX-License-Identifier: MIT
"""Is a rewritten kernel or module still what it was made from? The verdict, and its papers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmipatch.choices import CAMPAIGN_STATES, LIMIT_NS, STATES, Extent
from vmipatch.errors import NotServed, NotSupported
from vmipatch.files.entry import Entry, FileOutcome
from vmipatch.files.file import sha256_of
from vmipatch.files.kind import MODULES, Kind, require_pair
from vmipatch.limits import Limit
from vmipatch.verify.certificate import certificate
from vmipatch.verify.coverage import Sites
from vmipatch.verify.parallel import Watcher
from vmipatch.verify.plan import PHASES, Kernel, Request, verify
from vmipatch.verify.report_html import html_report
from vmipatch.verify.report_json import as_json
from vmipatch.verify.report_sarif import sarif
from vmipatch.verify.static.module import check_module
from vmipatch.verify.verdict import Evidence, Verdict, judge

if TYPE_CHECKING:
    from vmipatch.files.kernel import KernelFile
    from vmipatch.files.module import ModuleFile

BY_COMPARISON = frozenset({Extent.STATIC, Extent.LOCKSTEP})
"""What cannot be done without the original."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to verify a kernel."""

    extent: Extent = Extent.NORMAL
    initrd: bytes | None = field(default=None, repr=False)
    """The initial file system of the boots; None: verify's own."""
    append: str = ""
    """More for the kernel's command line."""
    required_percent: float | None = None
    """How many of a hundred sites must be executed."""
    limit_ns: int = LIMIT_NS
    """Virtual time for each boot."""
    states: int | None = None
    """Random states in which each shape of site is executed; None: as usual for the extent."""


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """The verdict about one file, and the papers that can be written of it."""

    kernel: Kernel = field(repr=False)
    original: Kernel | None = field(repr=False)
    verdict: Verdict = field(repr=False)
    kind: Kind

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the file."""
        return self.verdict.holds

    @property
    def statement(self) -> str:
        """The verdict in one line."""
        return self.verdict.statement.value

    def __repr__(self) -> str:
        return f"Verification({self.kernel.name!r}, {self.statement!r})"

    def report(self) -> dict[str, Any]:
        """The JSON report: docs/schemas/verify-2.json, of a module docs/schemas/tree-1.json."""
        if self.kind not in MODULES:
            return as_json(self.verdict)
        from vmipatch.files.tree_report import tree_report

        return tree_report(self.kernel.name, [self.entry(self.kernel.name)])

    def entry(self, path: str) -> Entry:
        """What came of a module, as a line of a tree's report."""
        static = self.verdict.evidence.static
        assert static is not None and self.original is not None, "a module is compared"
        return Entry(
            path,
            FileOutcome.PROVEN if static.holds else FileOutcome.REFUTED,
            static.counts.get("records", 0),
            message="\n".join(map(str, static.findings)),
            input_sha256=self.original.file_sha256,
            output_sha256=self.kernel.file_sha256,
            static=static,
        )

    def certificate(self) -> dict[str, Any]:
        """What was proven, observed and left out, with hashes (docs/schemas/certificate-1.json)."""
        return certificate(self.kernel, self.original, self.verdict, is_module=self.kind in MODULES)

    def sarif(self) -> bytes:
        """The static findings as SARIF 2.1.0."""
        return sarif([(self.kernel.name, self.verdict.evidence.static)])

    def html(self) -> str:
        """The verdict as a page."""
        return html_report(self.verdict)


def verify_kernel(
    file: KernelFile,
    original: KernelFile | None,
    options: VerifyOptions | None,
    watcher: Watcher | None,
) -> Verification:
    """As KernelFile.verify says."""
    options = options or VerifyOptions()
    if original is not None:
        require_pair(file.kind, original.kind, file.name)
    if original is None and options.extent in BY_COMPARISON:
        raise NotServed(
            f"nothing to compare {file.name} with", hint="name the kernel that was rewritten"
        )
    if options.required_percent is not None and not PHASES[options.extent]:
        raise NotServed(
            f"{options.extent.value} counts no sites that could be required",
            hint="boot the kernel, or require no coverage",
        )
    campaign = options.extent is Extent.SITES
    request = Request(
        kernel=_output(file, is_compared=original is not None),
        original=None if original is None else _input(original),
        extent=options.extent,
        initrd=options.initrd,
        append=options.append,
        required_percent=options.required_percent,
        limit_ns=options.limit_ns,
        states=options.states or (CAMPAIGN_STATES if campaign else STATES),
    )
    verdict = verify(request, watcher)
    return Verification(request.kernel, request.original, verdict, file.kind)


def verify_module(file: ModuleFile, original: ModuleFile) -> Verification:
    """As ModuleFile.verify says."""
    require_pair(file.kind, original.kind, file.name)
    static = check_module(original.unpacked, file.unpacked, file.name)
    # What a refuted module says of itself counts for nothing.
    sites = Sites.of_module(file.module.image) if static.holds else Sites((), ())
    evidence = Evidence(
        kernel=file.name,
        original=original.name,
        sites=sites,
        static=static,
        boots={},
        coverage=None,
        required_percent=None,
        own_workload=False,
    )
    return Verification(_of_module(file), _of_module(original), judge(evidence), file.kind)


def _output(file: KernelFile, *, is_compared: bool) -> Kernel:
    """The rewritten one. Raises InputNotUnderstood if it cannot be compared with an original."""
    if is_compared and file.kind is Kind.BZIMAGE and not len(file.image.symbols):
        raise NotSupported(
            Limit.COMPARED_BZIMAGE,
            "what a bzImage holds has neither symbols nor relocations to compare",
            file=file.name,
            place=".symtab",
        )
    return Kernel.of(file.image, file_sha256=file.sha256)


def _input(original: KernelFile) -> Kernel:
    """What was rewritten; without symbols and relocations, what can be recovered of them."""
    linked = original.linked
    beside = original.beside.sha256 if original.beside else ""
    return Kernel.of(linked.image, linked.fixed, original.sha256, linked.source, beside)


def _of_module(file: ModuleFile) -> Kernel:
    """The hashes of a module: of the file, and of the ELF file in it."""
    return Kernel(file.name, b"", sha256_of(file.unpacked), file.sha256)
