# SPDX-License-Identifier: MIT
"""What do `rewrite`, `verify` and `restore` do with modules: one of them, or a whole tree?"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from vmipatch.cli.console import Console, json_output
from vmipatch.cli.files import read_file
from vmipatch.cli.module_tree import (
    COPIED,
    FAILED,
    OUTCOMES,
    PROVEN,
    REFUTED,
    RESTORED,
    REWRITTEN,
    UNTOUCHED,
    Entry,
    Task,
    files_of,
    is_module_name,
    processors,
    run_all,
)
from vmipatch.cli.outputs import STDOUT, write_all
from vmipatch.cli.tree_copy import copy_tree, with_progress
from vmipatch.errors import ExitCode, VmipatchError
from vmipatch.image.module import Module
from vmipatch.image.packed import pack, packing_of, unpack, usual
from vmipatch.restore import Gives, restore_module
from vmipatch.rewrite import RewriteOptions
from vmipatch.rewrite.module import MARK, RewrittenModule, rewrite_module
from vmipatch.scan.site import Disposition

SCHEMA = "vmipatch.tree/1"
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
    result = rewrite_module(unpack(data, name), name, options, data)
    if not result.is_changed:
        return data, result
    return pack(result.data, result.recipe or usual(packing_of(data))), result


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
        gives=result.noted.gives.label if result.noted else "",
        reasons=tuple(sorted(Counter(site.reason.value for site in left).items())),
    )


def summary_of_module(result: RewrittenModule, output: str) -> str:
    """The line for one module."""
    entry = describe(output, result)
    if not result.is_changed:
        return f"{output}: nothing to rewrite, the module is the input's"
    signature = f", its signature of {entry.signature_len} bytes is gone: sign it again"
    line = (
        f"{output}: {entry.sites} sites rewritten, {entry.native} left native, "
        f"{entry.added_len} bytes of padding added" + (signature if entry.signature_len else "")
    )
    if result.noted is None or result.noted.gives is Gives.INPUT:
        return line
    return f"{line}\n{output}: `vmipatch restore` gives back {result.noted.gives.text}"


@dataclass(frozen=True, slots=True)
class _Rewrite:
    """Rewrites one module of a tree."""

    options: RewriteOptions

    def __call__(self, data: bytes, name: str, path: str) -> tuple[bytes, Entry]:
        output, result = rewrite_packed(data, name, self.options)
        return output, describe(path, result)


@dataclass(frozen=True, slots=True)
class _Verify:
    """Checks one module of a rewritten tree against its original."""

    original: str
    tree: str

    def __call__(self, path: str) -> Entry:
        from vmipatch.verify.static.module import check_module

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
    settings = f"rewrite {options}"
    done = copy_tree(console, source, target, _Rewrite(options), settings, jobs)
    conclude(console, target, done, json_file, ExitCode.INPUT)


def restore_tree(
    console: Console, source: str, target: str, jobs: int | None, json_file: str | None
) -> None:
    """Give all modules below `source` back that were rewritten, and copy everything else.

    A module that does not come back is reported, counted and left out. Raises EnvironmentProblem.
    """
    done = copy_tree(console, source, target, _restored, "restore", jobs)
    conclude(console, target, done, json_file, ExitCode.INPUT)


def _restored(data: bytes, name: str, path: str) -> tuple[bytes, Entry]:
    if MARK not in Module.parse(unpack(data, name), name).file.section_by_name:
        return data, Entry(path, UNTOUCHED)
    restored = restore_module(data, name)
    return restored.data, Entry(path, RESTORED, gives=restored.gives.label)


def verify_tree(
    console: Console, tree: str, original: str, jobs: int | None, json_file: str | None
) -> None:
    """Prove each module of `tree` from the one below `original`."""
    wanted = [path for path in files_of(original) if is_module_name(path)]
    wanted = [path for path in wanted if not os.path.islink(os.path.join(original, path))]
    found = {path for path in files_of(tree) if is_module_name(path)}
    done = [Entry(path, REFUTED, message="it has no original") for path in found - set(wanted)]
    task: Task = _Verify(original, tree)
    done += with_progress(console, run_all(original, wanted, task, jobs or processors()), wanted)
    conclude(console, tree, done, json_file, ExitCode.FINDINGS)


def conclude(
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
    shown = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
    unsigned = sum(1 for entry in entries if entry.signature_len)
    signatures = f", {unsigned} signatures gone" if unsigned else ""
    short = sum(1 for entry in entries if entry.gives not in ("", Gives.INPUT.label))
    comes_back = f", {short} do not come back to the last byte" if short else ""
    return f"{tree}: {shown or 'no files'}; {sites} sites{signatures}{comes_back}"


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
                "restore": entry.gives or None,
                "message": entry.message,
            }
            for entry in entries
            if entry.outcome != COPIED
        ],
    }


def verify_module(console: Console, path: str, original: str, json_file: str | None) -> None:
    """Prove one module from its original; exit code 1 with findings."""
    from vmipatch.verify.static.module import check_module

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
