# SPDX-License-Identifier: MIT
"""What do `rewrite` and `verify` do with modules: one of them, or a whole tree?"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from vmipatch.cli.console import QUIET, Console, json_output
from vmipatch.cli.files import read_file
from vmipatch.cli.module_tree import (
    JOURNAL,
    Entry,
    Journal,
    Task,
    files_of,
    is_module_name,
    processors,
    run_all,
    sha256,
)
from vmipatch.cli.outputs import STDOUT, Output, reported, write_all
from vmipatch.errors import ExitCode, VmipatchError
from vmipatch.image.packed import pack, packing_of, unpack
from vmipatch.rewrite import RewriteOptions
from vmipatch.rewrite.module import RewrittenModule, rewrite_module
from vmipatch.scan.site import Disposition
from vmipatch.verify.static.module import check_module

SCHEMA = "vmipatch.tree/1"
REWRITTEN, UNTOUCHED, COPIED, FAILED, PROVEN, REFUTED = (
    "rewritten", "untouched", "copied", "failed", "proven", "refuted",
)  # fmt: skip
SHOWN = 12
"""Failures on the screen; the report has all."""
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="How many modules of a tree at once; all processors if not given.",
)
LEFT = (Disposition.NATIVE_TRAPPING, Disposition.NATIVE_UNPRIVILEGED)


def rewrite_packed(
    data: bytes, name: str, options: RewriteOptions
) -> tuple[bytes, RewrittenModule]:
    """The new file, packed as `data` was, and what was done; an untouched module is `data`."""
    result = rewrite_module(unpack(data, name), name, options)
    return (pack(result.data, packing_of(data)) if result.is_changed else data), result


def describe(path: str, result: RewrittenModule) -> Entry:
    """What became of one module."""
    left = [site for site in result.scan.sites if site.disposition in LEFT]
    return Entry(
        path=path,
        outcome=REWRITTEN if result.is_changed else UNTOUCHED,
        sites=len(result.sites),
        native=len(left),
        added_len=sum(len(body.code) - len(site.code) for site, body in result.sites),
        signature_len=result.signature_len if result.is_changed else 0,
        reasons=tuple(sorted(Counter(site.reason.value for site in left).items())),
    )


def summary_of_module(result: RewrittenModule, output: str) -> str:
    """The line for one module."""
    entry = describe(output, result)
    if not result.is_changed:
        return f"{output}: nothing to rewrite, the module is the input's"
    signature = f", its signature of {entry.signature_len} bytes is gone: sign it again"
    return (
        f"{output}: {entry.sites} sites rewritten, {entry.native} left native, "
        f"{entry.added_len} bytes of padding added" + (signature if entry.signature_len else "")
    )


@dataclass(frozen=True, slots=True)
class _Rewrite:
    """Rewrites one file of a tree into another tree."""

    source: str
    target: str
    options: RewriteOptions

    def __call__(self, path: str) -> Entry:
        origin, place = os.path.join(self.source, path), os.path.join(self.target, path)
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if os.path.islink(origin):
                return self._link(path, origin, place)
            data, entry = read_file(origin), Entry(path, COPIED)
            output = data
            if is_module_name(path):
                output, result = rewrite_packed(data, origin, self.options)
                entry = describe(path, result)
            write_all([Output(place, output, os.stat(origin).st_mode & 0o777)])
        except VmipatchError as error:
            return Entry(path, FAILED, message=str(error.in_file(origin)))
        except OSError as error:
            return Entry(path, FAILED, message=f"{origin}: {error.strerror}")
        return replace(entry, input_sha256=sha256(data), output_sha256=sha256(output))

    def _link(self, path: str, origin: str, place: str) -> Entry:
        goal = os.readlink(origin)
        if os.path.lexists(place):
            os.unlink(place)
        os.symlink(goal, place)
        return Entry(path, COPIED)


@dataclass(frozen=True, slots=True)
class _Verify:
    """Checks one module of a rewritten tree against its original."""

    original: str
    tree: str

    def __call__(self, path: str) -> Entry:
        place = os.path.join(self.tree, path)
        try:
            was, now = read_file(os.path.join(self.original, path)), read_file(place)
            verdict = check_module(unpack(was, path), unpack(now, place), place)
        except VmipatchError as error:
            return Entry(path, FAILED, message=str(error.in_file(place)))
        findings = "\n".join(map(str, verdict.findings))
        outcome = PROVEN if verdict.holds else REFUTED
        return Entry(path, outcome, verdict.counts.get("records", 0), message=findings)


def rewrite_tree(
    console: Console,
    source: str,
    target: str,
    options: RewriteOptions,
    jobs: int | None,
    json_file: str | None,
) -> None:
    """Rewrite all modules below `source` into `target`, and copy everything else.

    A module that is not understood is reported, counted and left out; the exit code is then that of
    an input that was not understood. Raises EnvironmentProblem.
    """
    if _is_below(target, source) or _is_below(source, target):
        raise click.UsageError("one of the two trees lies in the other")
    paths = files_of(source)
    with reported(target):
        os.makedirs(target, exist_ok=True)
    task = _Rewrite(source, target, options)
    journal = Journal(target, f"{options.padding.value}")
    done = [e for path in paths if (e := journal.entries.get(path)) and _still_holds(task, e)]
    kept = {entry.path for entry in done}
    rest = [path for path in paths if path not in kept and path != JOURNAL]
    if done:
        console.say(f"{target}: {len(done)} files are done already")
    for entry in _with_progress(console, run_all(source, rest, task, jobs or processors()), rest):
        done.append(entry)
        if entry.outcome != FAILED:
            journal.note(entry)
    journal.close(complete=True)
    _conclude(console, target, done, json_file, ExitCode.INPUT)


def verify_tree(
    console: Console, tree: str, original: str, jobs: int | None, json_file: str | None
) -> None:
    """Prove each module of `tree` from the one below `original`."""
    wanted = [path for path in files_of(original) if is_module_name(path)]
    wanted = [path for path in wanted if not os.path.islink(os.path.join(original, path))]
    found = {path for path in files_of(tree) if is_module_name(path)}
    done = [Entry(path, REFUTED, message="it has no original") for path in found - set(wanted)]
    task: Task = _Verify(original, tree)
    done += _with_progress(console, run_all(original, wanted, task, jobs or processors()), wanted)
    _conclude(console, tree, done, json_file, ExitCode.FINDINGS)


def _with_progress(
    console: Console, entries: Iterable[Entry], paths: Sequence[str]
) -> Iterable[Entry]:
    """The entries, with a bar on a terminal."""
    hidden = console.verbosity <= QUIET or not sys.stderr.isatty()
    with click.progressbar(
        entries, length=len(paths), label="modules", file=sys.stderr, hidden=hidden
    ) as shown:
        yield from shown


def _still_holds(task: _Rewrite, entry: Entry) -> bool:
    """Whether input and output are those of the journal's entry."""
    try:
        was = Path(task.source, entry.path).read_bytes()
        now = Path(task.target, entry.path).read_bytes()
    except OSError:
        return False
    return (sha256(was), sha256(now)) == (entry.input_sha256, entry.output_sha256)


def _is_below(path: str, other: str) -> bool:
    inner, outer = os.path.realpath(path), os.path.realpath(other)
    return os.path.commonpath((inner, outer)) == outer


def _conclude(
    console: Console, tree: str, entries: list[Entry], json_file: str | None, failed: ExitCode
) -> None:
    """Say what became of a tree, write the report, and end with the code that fits."""
    entries.sort(key=lambda entry: entry.path)
    wrong = [entry for entry in entries if entry.outcome in (FAILED, REFUTED)]
    if json_file is not None:
        write_all([json_output(json_file, SCHEMA, report(tree, entries))])
    for entry in wrong[:SHOWN]:
        console.say(entry.message if entry.outcome == FAILED else f"{entry.path}: {entry.message}")
    if len(wrong) > SHOWN:
        console.say(f"and {len(wrong) - SHOWN} modules more (--json has them)")
    console.say(_summary(tree, entries))
    if wrong:
        raise click.exceptions.Exit(failed)


def _summary(tree: str, entries: Sequence[Entry]) -> str:
    counts = Counter(entry.outcome for entry in entries)
    sites = sum(entry.sites for entry in entries)
    shown = ", ".join(
        f"{counts[outcome]} {outcome}"
        for outcome in (REWRITTEN, UNTOUCHED, PROVEN, REFUTED, FAILED, COPIED)
        if counts[outcome]
    )
    unsigned = sum(1 for entry in entries if entry.signature_len)
    signatures = f", {unsigned} signatures gone" if unsigned else ""
    return f"{tree}: {shown or 'no files'}; {sites} sites{signatures}"


def report(tree: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """The JSON report."""
    reasons: Counter[str] = Counter()
    for entry in entries:
        reasons.update(dict(entry.reasons))
    return {
        "tree": tree,
        "outcomes": dict(sorted(Counter(entry.outcome for entry in entries).items())),
        "sites": sum(entry.sites for entry in entries),
        "native": dict(sorted(reasons.items())),
        "added_len": sum(entry.added_len for entry in entries),
        "signatures": sum(1 for entry in entries if entry.signature_len),
        "files": [
            {
                "path": entry.path,
                "outcome": entry.outcome,
                "sites": entry.sites,
                "native": entry.native,
                "signature_len": entry.signature_len,
                "message": entry.message,
            }
            for entry in entries
            if entry.outcome != COPIED
        ],
    }


def verify_module(console: Console, path: str, original: str, json_file: str | None) -> None:
    """Prove one module from its original; exit code 1 with findings."""
    was, now = read_file(original), read_file(path)
    verdict = check_module(unpack(was, original), unpack(now, path), path)
    records = verdict.counts.get("records", 0)
    findings = "\n".join(map(str, verdict.findings))
    if json_file is not None:
        entry = Entry(path, PROVEN if verdict.holds else REFUTED, records, message=findings)
        write_all([json_output(json_file, SCHEMA, report(path, [entry]))])
    if json_file != STDOUT:
        instructions = verdict.counts.get("instructions", 0)
        held = f"holds, {instructions} instructions, {records} records"
        line = f"{path}: static check {held if verdict.holds else 'fails'}"
        console.data(f"{findings}\n{line}" if findings else line)
    if not verdict.holds:
        raise click.exceptions.Exit(ExitCode.FINDINGS)
