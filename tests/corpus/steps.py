# SPDX-License-Identifier: MIT
"""What is done with a kernel of the corpus? One function a step, each by vmipatch's command line.

A step gets a Bench (the kernel, where outputs lie, what earlier steps found) and gives a Result.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.corpus import boots
from tests.corpus.command import Ran, vmipatch, without_places
from tests.corpus.places import digest, tree_digest
from tests.corpus.state import CorpusStep, Result, StepOutcome, Subject
from tests.corpus.table import InputMode
from vmipatch.errors import ExitCode

SHOWN, FINDING_LEN = 3, 300
"""How many findings of a report a message holds, and how much of each."""
QUICK_S, LONG_S, LONGEST_S = 1800.0, 3600.0, 4 * 3600.0
"""Limits of real time; the host may be busy."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a subject is worked on."""

    subject: Subject
    directory: Path
    """For what is made of it, kept until all steps are done."""
    initrd: Path
    consoles: Path
    """Where consoles of original kernels are kept: no product changes them."""

    @property
    def input(self) -> Path:
        """The file or directory that is rewritten."""
        given = self.subject.kernel.input(self.subject.mode)
        assert given is not None
        return given

    @property
    def original(self) -> Path:
        """The file that the static proof compares with: the vmlinux where there is one to tell."""
        if self.subject.mode is InputMode.TWIN:
            assert self.subject.kernel.linked is not None
            return self.subject.kernel.linked
        return self.input

    @property
    def output(self) -> Path:
        """The rewritten file."""
        return self.directory / "output"

    @property
    def linked_output(self) -> Path:
        """The rewritten vmlinux with its symbols."""
        return self.output if self.subject.mode is InputMode.LINKED else self.directory / "linked"

    def run(self, *arguments: str | Path, timeout_s: float) -> Ran:
        """A command of vmipatch."""
        return vmipatch(*arguments, timeout_s=timeout_s, cwd=self.directory)


def scan(bench: Bench) -> Result:
    """Every kernel can be scanned, whether it can be rewritten or not."""
    report = bench.directory / "scan.json"
    ran = bench.run("scan", bench.input, "--json", report, "-q", timeout_s=QUICK_S)
    if ran.returncode:
        return _failed(ran)
    sites = json.loads(report.read_text())["sites"]
    kinds = Counter(site["disposition"] for site in sites)
    return _held(ran, {"sites": len(sites), "dispositions": dict(sorted(kinds.items()))})


def rewrite(bench: Bench) -> Result:
    """Rewrites, and keeps what is left native by reason, and what is lost."""
    ran = _rewrite(bench, "")
    if ran.returncode:
        return _failed(ran)
    return _held(ran, _figures(json.loads((bench.directory / "rewrite.json").read_text())))


def repeat(bench: Bench) -> Result:
    """A second run gives the same bytes."""
    ran = _rewrite(bench, "again-")
    if ran.returncode:
        return _failed(ran)
    names = (
        ["output"]
        if bench.subject.mode in (InputMode.LINKED, InputMode.MODULES)
        else ["output", "linked"]
    )
    pairs = [(bench.directory / name, bench.directory / f"again-{name}") for name in names]
    differ = [one.name for one, two in pairs if _digest(one) != _digest(two)]
    return _judged(ran, f"differs: {', '.join(differ)}" if differ else "")


def proof(bench: Bench) -> Result:
    """The static proof holds."""
    if bench.subject.mode is InputMode.MODULES:
        files: tuple[str | Path, ...] = ("--tree", bench.output, "--original", bench.input)
    else:
        files = ("--static", bench.linked_output, "--original", bench.original)
    report = _fresh(bench, "proof.json")
    ran = bench.run("verify", *files, "--json", report, "-q", timeout_s=LONG_S)
    return _failed(ran, *_findings(report)) if ran.returncode else _held(ran)


def restore(bench: Bench) -> Result:
    """A rewritten file comes back byte for byte."""
    back = bench.directory / "back"
    tree = ("--tree",) if bench.subject.mode is InputMode.MODULES else ()
    ran = bench.run("restore", *tree, bench.output, "-o", back, timeout_s=LONG_S)
    if ran.returncode:
        return _failed(ran)
    same = _digest(back) == _digest(bench.input)
    return _judged(ran, "" if same else "what comes back is not what was rewritten")


def original(bench: Bench) -> Result:
    """The kernel as it came reaches the end of the workload; without that nothing is compared."""
    kernel = bench.subject.kernel.packed
    if kernel is None:
        return Result(StepOutcome.LEFT_OUT, "no bzImage")
    return boots.original(kernel, bench.subject.kernel.checksum, bench.initrd, bench.consoles)


def boot(bench: Bench) -> Result:
    """The rewritten kernel says natively what the original says."""
    return _boot(bench, None)


def rom(bench: Bench) -> Result:
    """It does so with the native ROM, whose calls it makes."""
    native = bench.directory / "native.rom"
    ran = bench.run("rom", "--flavor", "native", "-o", native, timeout_s=QUICK_S)
    return _failed(ran) if ran.returncode else _boot(bench, native)


def paravirt(bench: Bench) -> Result:
    """It reaches the end of the workload in the hypervisor, at ring 1."""
    files = ("run", "--paravirt", bench.linked_output, "--initrd", bench.initrd)
    report = _fresh(bench, "run.json")
    ran = bench.run(
        *files, "--append", boots.ONE_PROCESSOR, "--json", report, "-q", timeout_s=LONGEST_S
    )
    if ran.returncode:
        last = f"the console ends with: {boots.last_line(ran.stdout)}"
        return _failed(ran, *_said(report, "ending", "details", "place"), last)
    before = boots.kept_console(bench.consoles, bench.subject.kernel.checksum)
    return _judged(ran, boots.complaint(ran.stdout, before))


def verify(bench: Bench) -> Result:
    """`verify` holds: proof, translations, three boots that are compared, an audit."""
    files = ("verify", bench.linked_output, "--original", bench.original)
    report = _fresh(bench, "verify.json")
    ran = bench.run(*files, "--json", report, "-q", timeout_s=LONGEST_S)
    return _failed(ran, *_findings(report)) if ran.returncode else _held(ran)


STEPS: Final[Mapping[CorpusStep, Callable[[Bench], Result]]] = {
    CorpusStep.SCAN: scan,
    CorpusStep.REWRITE: rewrite,
    CorpusStep.REPEAT: repeat,
    CorpusStep.PROOF: proof,
    CorpusStep.RESTORE: restore,
    CorpusStep.ORIGINAL: original,
    CorpusStep.BOOT: boot,
    CorpusStep.ROM: rom,
    CorpusStep.PARAVIRT: paravirt,
    CorpusStep.VERIFY: verify,
}

NEEDS: Final[Mapping[CorpusStep, tuple[CorpusStep, ...]]] = {
    CorpusStep.SCAN: (),
    CorpusStep.REWRITE: (),
    CorpusStep.ORIGINAL: (),
    CorpusStep.BOOT: (CorpusStep.REWRITE, CorpusStep.ORIGINAL),
    CorpusStep.ROM: (CorpusStep.REWRITE, CorpusStep.ORIGINAL),
}
"""Which steps have to hold before one can be done, if not Step.REWRITE alone."""


def needs(step: CorpusStep) -> tuple[CorpusStep, ...]:
    """Which steps have to hold before this one."""
    return NEEDS.get(step, (CorpusStep.REWRITE,))


def _rewrite(bench: Bench, prefix: str) -> Ran:
    mode, linked = bench.subject.mode, bench.subject.kernel.linked
    command: list[str | Path] = ["rewrite", bench.input, "-o", bench.directory / f"{prefix}output"]
    command += ["--json", bench.directory / f"{prefix}rewrite.json"]
    if mode is InputMode.TWIN and linked is not None:
        command += ["--debug", linked]
    if mode in (InputMode.TWIN, InputMode.ALONE):
        command += ["--vmlinux", bench.directory / f"{prefix}linked"]
    if mode is InputMode.MODULES:
        command += ["--tree"]
    return bench.run(*command, timeout_s=LONGEST_S if mode is InputMode.MODULES else QUICK_S)


def _figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report of `rewrite`, in short."""
    if "all_sites" not in report:
        return {key: value for key, value in report.items() if isinstance(value, int | dict)}
    reasons = Counter(site["reason"] for site in report["native"])
    restored = report["restore"]
    return {
        "sites": report["sites"],
        "treatments": report["treatments"],
        "native": dict(sorted(reasons.items())),
        "lost": report.get("bzimage", {}).get("lost", []),
        "gives": restored["gives"] if restored else None,
    }


def _boot(bench: Bench, option_rom: Path | None) -> Result:
    kernel = bench.output
    if bench.subject.mode is InputMode.LINKED:
        kernel = bench.directory / "wrapped"
        ran = bench.run("wrap", bench.output, "-o", kernel, timeout_s=QUICK_S)
        if ran.returncode:
            return _failed(ran)
    checksum = bench.subject.kernel.checksum
    return boots.rewritten(kernel, checksum, bench.initrd, bench.consoles, option_rom)


def _digest(path: Path) -> str:
    return tree_digest(path) if path.is_dir() else digest(path)


def _held(ran: Ran, figures: Mapping[str, Any] | None = None) -> Result:
    return Result(StepOutcome.HOLDS, "", ran.cpu_s, ran.peak_mib, figures or {})


def _judged(ran: Ran, complaint: str) -> Result:
    outcome = StepOutcome.FAILS if complaint else StepOutcome.HOLDS
    return Result(outcome, complaint, ran.cpu_s, ran.peak_mib)


def _fresh(bench: Bench, name: str) -> Path:
    """A report to be written, which does not exist yet."""
    report = bench.directory / name
    report.unlink(missing_ok=True)
    return report


def _said(report: Path, *keys: str) -> tuple[str, ...]:
    """These texts of a report, if it was written."""
    if not report.is_file():
        return ()
    document = json.loads(report.read_text())
    return tuple(f"{key}: {document[key]}" for key in keys if document[key])


def _findings(report: Path) -> tuple[str, ...]:
    """The first findings of a report of `verify`, or what is wrong with the first modules."""
    if not report.is_file():
        return ()
    document = json.loads(report.read_text())
    if "findings" in document:
        every = [
            f"{each['phase']}: {each['aspect']}: {each['place']}: {each['message']}"
            for each in document["findings"]
        ]
    else:
        every = [f"{each['path']}: {each['message']}" for each in document["files"]]
        every = [text for text in every if not text.endswith(": ")]
    more = [f"{len(every) - SHOWN} more"] if len(every) > SHOWN else []
    return tuple(without_places(text)[:FINDING_LEN] for text in every[:SHOWN] + more)


def _failed(ran: Ran, *more: str) -> Result:
    refused = ran.returncode == ExitCode.INPUT and not ran.timed_out
    outcome = StepOutcome.REFUSED if refused else StepOutcome.FAILS
    message = " / ".join(part for part in (ran.message, *more) if part)
    return Result(outcome, f"exit code {ran.returncode}: {message}", ran.cpu_s, ran.peak_mib)
