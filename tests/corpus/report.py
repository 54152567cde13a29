# SPDX-License-Identifier: MIT
"""What does vmipatch support? The page docs/support.md, written from the results of the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.corpus.judge import MOST_TIME, Colour, Judgement
from tests.corpus.state import PRODUCT_LEN, CorpusStep, Record
from tests.corpus.tried import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "support.md"
UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Line:
    """One kernel in one mode, as the page shows it."""

    record: Record
    verdict: Judgement


_HEAD = """\
<!-- SPDX-License-Identifier: MIT -->
# Which kernels

Written by `make test-corpus` (tests/corpus), which gets each kernel and takes it through the steps
below. A row counts for the checksums it names: of vmipatch's sources, and of the kernel's files.

Product: `{product}` (SHA-256 over the package vmipatch, its first {length} digits)

| step | what is done, by the command line |
| --- | --- |
| scan | `scan` ends with 0 |
| rewrite | `rewrite` ends with 0 |
| same twice | a second run gives the same bytes |
| proof | `verify --static` holds (`verify --tree` of modules) |
| restore | `restore` gives the input back, byte for byte |
| original boots | in QEMU with two processors, at a random address, to the end of a workload |
| boots | the rewritten kernel does, and prints the same |
| native ROM | with vmipatch's native ROM as well |
| hypervisor | `run --paravirt`, at ring 1, to the end of the workload |
| verify | `verify` holds: proof, translations, boots that are compared, audit |

Given as *twin*: a bzImage with its vmlinux (`--debug`); *alone*: the bzImage and nothing else;
*linked*: a vmlinux as its build left it; *modules*: a tree of modules.

Green: every step holds, and with relocations (*twin*, *linked*) a site stays native only for a
reason of a closed list (tests/corpus/judge.py); *alone*, at least 95 % of the sites are rewritten
that are with the twin. The hypervisor has one processor.
"""

_COLUMNS = (
    "kernel",
    "version",
    "compiler",
    "kind",
    "given as",
    "sites",
    "rewritten",
    "native",
    "lost",
    "steps that hold",
    "verdict",
)


def page(product: str, archive: Sequence[Line], given: Sequence[Line], ratio: float | None) -> str:
    """The whole page."""
    parts = [_HEAD.format(product=product[:PRODUCT_LEN], length=PRODUCT_LEN)]
    parts += ["## Repeatable from public archives\n", _table(archive)]
    if ratio is not None:
        parts.append(
            f"Debian 11's 5.10 (686) alone takes {ratio:.2f} times the CPU time of Debian 12's 6.1 "
            f"(at most {MOST_TIME} is wanted).\n"
        )
    parts += ["## Tried once; a synthetic sample of each kind is in the tests\n"]
    parts += [_kinds()]
    parts += ["Kernels that were brought (`--extra DIR`):\n", _table(given)] if given else []
    lines = [*archive, *given]
    parts += _section("Refused, and why", lines, Colour.REFUSED)
    parts += _section("Does not hold", lines, Colour.RED)
    parts += _section("Not done yet", lines, Colour.OPEN)
    parts += ["## Left native, by reason\n", _reasons(lines)]
    parts += ["## Checksums\n", _checksums(lines)]
    return "\n".join(parts)


def _kinds() -> str:
    rows = [("kind", "seen in", "sample"), ("---",) * 3]
    rows += [(kind.what, kind.seen, f"`{kind.sample}`") for kind in KINDS]
    return _rows(rows)


def _table(lines: Iterable[Line]) -> str:
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_cells, lines)]
    return _rows(rows)


def _cells(line: Line) -> tuple[str, ...]:
    facts = [line.record.facts.get(key) or UNKNOWN for key in ("version", "compiler", "kind")]
    rewrite = line.record.known.get(CorpusStep.REWRITE)
    figures = rewrite.figures if rewrite is not None and rewrite.holds else {}
    counts = _counts(line, figures)
    lost = ", ".join(figures.get("lost", ())) or ("nothing" if figures else "")
    holds = _holding(line)
    return (
        line.record.name,
        *facts,
        line.record.mode.value,
        *counts,
        lost,
        holds,
        line.verdict.colour.value,
    )


def _counts(line: Line, figures: Mapping[str, object]) -> tuple[str, str, str]:
    """Sites listed, rewritten, left native; harmless ones are the rest."""
    sites = figures.get("sites")
    if isinstance(sites, Mapping):
        harmless = sites.get("harmless", 0)
        total, done = sum(sites.values()), sites.get("rewritten", 0)
        return str(total), str(done), str(total - done - harmless)
    scan = line.record.known.get(CorpusStep.SCAN)
    listed = scan.figures.get("sites", "") if scan is not None else ""
    return str(listed), "", ""


def _holding(line: Line) -> str:
    holding = [
        step
        for step in line.record.steps
        if step in line.record.known and line.record.known[step].holds
    ]
    if len(holding) == len(line.record.steps):
        return "all"
    if len(holding) > len(line.record.steps) // 2:
        return "all but " + ", ".join(s.value for s in line.record.steps if s not in holding)
    return ", ".join(step.value for step in holding) or "none"


def _section(title: str, lines: Iterable[Line], colour: Colour) -> list[str]:
    chosen = [line for line in lines if line.verdict.colour is colour]
    if not chosen:
        return []
    rows = [("kernel", "given as", "why"), ("---",) * 3]
    rows += [
        (line.record.name, line.record.mode.value, line.verdict.why.replace("|", "\\|"))
        for line in chosen
    ]
    return [f"## {title}\n", _rows(rows)]


def _reasons(lines: Iterable[Line]) -> str:
    counted: dict[str, list[int]] = {}
    for line in lines:
        rewrite = line.record.known.get(CorpusStep.REWRITE)
        native = rewrite.figures.get("native", {}) if rewrite is not None else {}
        for reason, count in native.items():
            counted.setdefault(reason, []).append(count)
    rows = [
        ("reason", "in how many rows", "sites, fewest", "most"),
        ("---", "---:", "---:", "---:"),
    ]
    rows += [
        (reason, str(len(counts)), str(min(counts)), str(max(counts)))
        for reason, counts in sorted(counted.items())
    ]
    return _rows(rows)


def _checksums(lines: Iterable[Line]) -> str:
    """Of the files of each kernel: bzImage and vmlinux together, or the tree of modules."""
    rows = [("kernel", "given as", "SHA-256"), ("---",) * 3]
    records = [line.record for line in lines if line.record.checksum]
    rows += [(record.name, record.mode.value, f"`{record.checksum}`") for record in records]
    return _rows(rows)


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"{_row(cells)}\n" for cells in rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def summary(lines: Iterable[Line]) -> Iterator[str]:
    """One line each for a terminal."""
    for line in lines:
        why = f": {line.verdict.why}" if line.verdict.why else ""
        yield f"{line.verdict.colour.value:8} {line.record.name} {line.record.mode.value}{why}"
