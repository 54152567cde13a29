# SPDX-License-Identifier: MIT
"""Which kernels does this vmipatch hold for? `python -m tests.corpus [NAME...]`.

Gets what the cache lacks, does the steps that are not done yet for this state of vmipatch, and
writes docs/support.md. Stop it at any time; the next run goes on.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.corpus import fetch, given, judge, places, report, runner, state, table
from tests.corpus.state import CorpusStep, Results, Subject
from tests.corpus.table import InputMode


def main() -> int:
    """Run what is asked for; exit code 1 if a row is neither green nor rightly refused."""
    options = _options()
    cache = options.cache
    cache.mkdir(parents=True, exist_ok=True)
    rows = [row for row in table.ROWS if _chosen(row.name, options.names)]
    found: list[Subject] = []
    for row in rows:
        found += _subjects_of(row, options)
    brought = [] if options.extra is None else list(given.kernels_in(options.extra))
    for kernel in brought:
        if _chosen(kernel.name, options.names):
            found += runner.subjects(kernel, options.modes)
    product = state.product_checksum()
    plan = runner.StepPlan(cache, product, options.steps, options.again)
    if not options.report_only:
        try:
            runner.run(plan, found, options.jobs, _say)
        except runner.ProductChanged as change:
            sys.exit(f"tests.corpus: {change}")
    lines = list(_lines(cache, product, found))
    for text in report.summary(lines):
        print(text)
    if options.page is not None:
        _write_page(options.page, cache, product)
    fine = (judge.Colour.GREEN, judge.Colour.REFUSED)
    return int(any(line.verdict.colour not in fine for line in lines))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="rows, as patterns (*-tiny)")
    parser.add_argument("--cache", type=Path, default=places.default_cache())
    parser.add_argument("--extra", type=Path, metavar="DIR", help="more kernels")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="subjects at once")
    parser.add_argument(
        "--steps", type=_steps, default=tuple(CorpusStep), help="scan,rewrite,... only"
    )
    parser.add_argument(
        "--modes", type=_modes, default=tuple(InputMode), help="twin,alone,... only"
    )
    parser.add_argument("--no-get", action="store_true", help="work on what the cache has")
    parser.add_argument("--again", action="store_true", help="try again what did not hold")
    parser.add_argument("--report-only", action="store_true", help="do no step")
    parser.add_argument("--page", type=Path, default=report.PAGE, help="where the page goes")
    return parser.parse_args()


def _steps(text: str) -> tuple[CorpusStep, ...]:
    return tuple(CorpusStep[word.upper()] for word in text.split(","))


def _modes(text: str) -> tuple[InputMode, ...]:
    return tuple(InputMode(word) for word in text.split(","))


def _chosen(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _subjects_of(row: table.CorpusRow, options: argparse.Namespace) -> Iterator[Subject]:
    try:
        if options.no_get or options.report_only:
            kernel = fetch.find(row, options.cache)
        else:
            kernel = fetch.get(row, options.cache, options.jobs)
    except fetch.NotAvailable as problem:
        _say(f"{row.name}: not available: {problem}")
        return
    if kernel is None:
        _say(f"{row.name}: not in the cache")
        return
    modes = [mode for mode in options.modes if mode in table.modes(row)]
    yield from runner.subjects(kernel, modes)


def _write_page(page: Path, cache: Path, product: str) -> None:
    """The whole corpus as far as it is known, whatever this run was asked for."""
    records: list[state.Record] = []
    for row in table.ROWS:
        modes, kernel = table.modes(row), fetch.find(row, cache)
        if kernel is None:
            records += [state.Record(row.name, mode, "", table.facts(row), {}) for mode in modes]
        else:
            found = runner.subjects(kernel, modes)
            records += [Results(cache, product, subject).record for subject in found]
    archive = list(_judged(records))
    brought = [*_judged(list(state.records(cache, product, given.PREFIX)))]
    page.write_text(report.page(product, archive, brought, _ratio(archive)))


def _ratio(lines: Sequence[report.Line]) -> float | None:
    records = [line.record for line in lines if line.record.mode is InputMode.ALONE]
    known = {record.name: record.known for record in records}
    first, second = (known.get(name, {}) for name in judge.TIMED)
    return judge.time_ratio(first, second)


def _lines(cache: Path, product: str, found: Sequence[Subject]) -> Iterator[report.Line]:
    return _judged([Results(cache, product, subject).record for subject in found])


def _judged(records: Sequence[state.Record]) -> Iterator[report.Line]:
    expected = {row.name: row.refused for row in table.ROWS}
    twins = {record.name: record.known for record in records if record.mode is InputMode.TWIN}
    for record in records:
        words = expected.get(record.name, table.NOTHING).get(record.mode, "")
        yield report.Line(record, judge.verdict(record, words, twins.get(record.name)))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
