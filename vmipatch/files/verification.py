# SPDX-License-Identifier: MIT
"""Is a rewritten kernel or module still what it was made from? The verdict, and its papers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vmipatch.choices import CAMPAIGN_STATES, LIMIT_NS, STATES, TIMEOUT_S, Extent
from vmipatch.errors import InputNotUnderstood, NotServed
from vmipatch.files.entry import Entry, FileOutcome
from vmipatch.files.file import read_file, sha256_of
from vmipatch.files.kind import MODULES, Kind, require_pair
from vmipatch.image.elf import ELF_MAGIC
from vmipatch.names import base_name, relative_name
from vmipatch.verify import workload
from vmipatch.verify.boots import Phase
from vmipatch.verify.certificate import certificate
from vmipatch.verify.coverage import Sites
from vmipatch.verify.judge import judge
from vmipatch.verify.parallel import Watcher
from vmipatch.verify.plan import PHASES, Kernel, Request, verify
from vmipatch.verify.processors import default_processors
from vmipatch.verify.report_html import html_report
from vmipatch.verify.report_json import as_json
from vmipatch.verify.report_sarif import sarif
from vmipatch.verify.static.bzimage.check import check_bzimage
from vmipatch.verify.static.bzimage.inputs import Shipped
from vmipatch.verify.static.module import check_module
from vmipatch.verify.user_space import Detail
from vmipatch.verify.verdict import Evidence, Verdict
from vmipatch.verify.xen.machine import COMMAND_LINE, XenOrder, require_emulator

if TYPE_CHECKING:
    from vmipatch.files.kernel import KernelFile
    from vmipatch.files.module import ModuleFile
    from vmipatch.image.linked import LinkedKernel

BY_COMPARISON = frozenset({Extent.STATIC, Extent.LOCKSTEP})
"""Extents that cannot be done without the original."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to verify a kernel."""

    extent: Extent = Extent.NORMAL
    """How much to do."""
    initrd: bytes | None = field(default=None, repr=False)
    """The initial file system of the boots; None: verify's own."""
    append: str = ""
    """More for the kernel's command line."""
    required_percent: float | None = None
    """How many of a hundred sites must be executed."""
    limit_ns: int = LIMIT_NS
    """Virtual time for each boot."""
    timeout_s: float = TIMEOUT_S
    """Real time for each boot."""
    vary: int = 0
    """How often the original is booted once more, with a timer that ticks at another moment: what
    varies between its own boots is not a difference of the rewritten kernel's."""
    cpus: int | None = None
    """Processors of the boots; None: two of an SMP kernel, one of any other."""
    races: int = 0
    """How often the rewritten kernel is booted once more, its processors in turns of other
    lengths."""
    states: int | None = None
    """Random states in which each shape of site is executed; None: as usual for the extent."""
    xen: str | None = None
    """A Xen that QEMU starts, to boot the rewritten kernel as its domain 0, too."""


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """The verdict about one file, and the papers that can be written of it."""

    kernel: Kernel = field(repr=False)
    """The kernel that was verified."""
    original: Kernel | None = field(repr=False)
    """The one it was compared with; None if none was given."""
    verdict: Verdict = field(repr=False)
    """Outcomes and findings, phase by phase."""
    kind: Kind
    """The kind of the verified file."""

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

        name = base_name(self.kernel.name)
        return tree_report(name, [self.entry(name)])

    def entry(self, path: str) -> Entry:
        """A module's outcome, as a line of a tree's report."""
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
        """Proofs, observations and omissions, with hashes (docs/schemas/certificate-1.json)."""
        return certificate(self.kernel, self.original, self.verdict, is_module=self.kind in MODULES)

    def subjects(self) -> list[tuple[str, str]]:
        """Name and SHA-256 of the file that was verified, as it is shipped."""
        return [(base_name(self.kernel.name), self.kernel.file_sha256)]

    def sarif(self) -> bytes:
        """The static findings as SARIF 2.1.0."""
        return sarif([(relative_name(self.kernel.name), self.verdict.evidence.static)])

    def html(self) -> str:
        """The verdict as a page."""
        return html_report(self.verdict, self.certificate())


def verify_kernel(
    file: KernelFile,
    original: KernelFile | None,
    options: VerifyOptions | None,
    watcher: Watcher | None,
    debug: KernelFile | None = None,
) -> Verification:
    """As KernelFile.verify says."""
    options = options or VerifyOptions()
    _require_served(file, original, debug)
    if original is None and options.extent in BY_COMPARISON:
        raise NotServed(
            f"nothing to compare {file.name} with", hint="name the kernel that was rewritten"
        )
    if options.required_percent is not None and not PHASES[options.extent]:
        raise NotServed(
            f"{options.extent.value} counts no sites that could be required",
            hint="boot the kernel, or require no coverage",
        )
    if options.vary and (original is None or Phase.ORIGINAL not in PHASES[options.extent]):
        raise NotServed(
            "nothing is booted whose timer could be shifted",
            hint="name the kernel that was rewritten, and boot it",
        )
    if options.xen is not None:
        _require_own_workload(options)
    campaign = options.extent is Extent.SITES
    kernel, source, shipped = _compared(file, original, debug)
    if kernel is None:
        assert source is not None and shipped is not None, "a bzImage without notes"
        return _unlike(file, source, shipped)
    request = Request(
        kernel=kernel,
        original=source,
        shipped=shipped,
        is_packed=file.kind is Kind.BZIMAGE,
        extent=options.extent,
        initrd=options.initrd,
        append=options.append,
        required_percent=options.required_percent,
        limit_ns=options.limit_ns,
        timeout_s=options.timeout_s,
        vary=options.vary,
        cpus=processors_of(file, options.extent, options.cpus),
        races=options.races,
        states=options.states or (CAMPAIGN_STATES if campaign else STATES),
        xen=None if options.xen is None else _order_of_xen(file, options, options.xen),
    )
    verdict = verify(request, watcher)
    return Verification(request.kernel, request.original, verdict, file.kind)


def processors_of(file: KernelFile, extent: Extent, wanted: int | None) -> int:
    """How many processors the boots of a verification have; `wanted` if a user chose.

    One where nothing is booted, or machines run side by side. Raises as `file.image` does.
    """
    if not PHASES[extent]:
        return 1
    return default_processors(file.image.data) if wanted is None else wanted


def _require_own_workload(options: VerifyOptions) -> None:
    """Raise NotServed if there is no native boot of verify's own workload to compare with."""
    if options.initrd is not None or Phase.NATIVE not in PHASES[options.extent]:
        raise NotServed(
            "on Xen the kernel runs verify's own workload, and is compared with a native boot",
            hint="leave the initial file system out, and boot the kernel natively",
        )


def _order_of_xen(file: KernelFile, options: VerifyOptions, path: str) -> XenOrder:
    """The hypervisor at `path`, and the kernel as what it starts.

    Raises InputNotUnderstood, NotSupported and EnvironmentProblem.
    """
    require_emulator()
    hypervisor = read_file(path)
    if not hypervisor.startswith(ELF_MAGIC):
        raise InputNotUnderstood(
            "it is not the ELF file that QEMU starts Xen from",
            file=path,
            hint="give the file xen of Xen's build, not xen.gz",
        )
    append = f"{COMMAND_LINE} {options.append}".strip()
    image = file.xen_image(initrd=workload.initramfs(), append=append)
    return XenOrder(
        path, sha256_of(hypervisor), image.data, image.memory, options.timeout_s, Detail.EXACT
    )


def verify_module(file: ModuleFile, original: ModuleFile) -> Verification:
    """As ModuleFile.verify says."""
    require_pair(file.kind, original.kind, file.name)
    static = check_module(original.unpacked, file.unpacked, file.name, original.data)
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


def _require_served(
    file: KernelFile, original: KernelFile | None, debug: KernelFile | None
) -> None:
    if original is not None:
        require_pair(file.kind, original.kind, file.name)
        if file.kind is Kind.BZIMAGE and original.kind is not Kind.BZIMAGE:
            original.refuse(
                "is not what a bzImage is made from", "name the bzImage, and this with --debug"
            )
    if debug is None:
        return
    if file.kind is not Kind.BZIMAGE or original is None:
        file.refuse("is compared with no bzImage that has a debug twin", "leave the twin out")
    if debug.kind is not Kind.VMLINUX:
        debug.refuse("is not a debug twin", "give the vmlinux with symbols and relocations")


def _compared(
    file: KernelFile, original: KernelFile | None, debug: KernelFile | None
) -> tuple[Kernel | None, Kernel | None, Shipped | None]:
    """The rewritten kernel and its original, and the bzImages that they came in.

    No kernel if that in a bzImage is too unlike the original's to be compared.
    """
    if original is None:
        image = file.image
        if file.kind is Kind.BZIMAGE:
            from vmipatch.recover import with_own_symbols

            image = with_own_symbols(image)
        return Kernel.of(image, file_sha256=file.sha256, source=file.image), None, None
    if file.kind is not Kind.BZIMAGE:
        kernel = Kernel.of(file.image, file_sha256=file.sha256)
        return kernel, _input(original, original.linked), None
    from vmipatch.files.rewriting import linked_kernel

    file.require_unpacked()
    original.require_unpacked()
    linked = linked_kernel(original, debug, whole=False)
    shipped = Shipped(original.data, original.name, file.data, file.name, linked.image)
    witness, source = shipped.witness, _input(original, linked)
    if witness is None:
        return None, source, shipped
    kernel = replace(Kernel.of(witness, file_sha256=file.sha256), sha256=file.elf_sha256)
    return kernel, source, replace(shipped)


def _unlike(file: KernelFile, source: Kernel, shipped: Shipped) -> Verification:
    """The verdict about a bzImage whose kernel cannot be compared: the findings tell why."""
    evidence = Evidence(
        kernel=file.name,
        original=source.name,
        sites=Sites((), ()),
        static=check_bzimage(shipped),
        boots={},
        coverage=None,
        required_percent=None,
        own_workload=False,
        is_packed=True,
    )
    kernel = Kernel(file.name, b"", file.elf_sha256, file.sha256)
    return Verification(kernel, source, judge(evidence), file.kind)


def _input(original: KernelFile, linked: LinkedKernel) -> Kernel:
    """The input; without symbols and relocations, what can be recovered of them."""
    beside = original.beside.sha256 if original.beside else ""
    return Kernel.of(linked.image, linked.fixed, original.sha256, linked.source, beside)


def _of_module(file: ModuleFile) -> Kernel:
    """The hashes of a module: of the file, and of the ELF file in it."""
    return Kernel(file.name, b"", sha256_of(file.unpacked), file.sha256)
