# SPDX-License-Identifier: MIT
"""How are the outcomes of a campaign published? As a section of docs/mutants.md."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.verify.adversarial import of_bzimage
from tests.verify.adversarial.free import FREE
from tests.verify.adversarial.kinds import OF_ELF
from tests.verify.adversarial.outcome import ACCEPTED, FAILED, FREE_BY_TABLE, REFUSED, ChangeOutcome

BEGIN, END = "<!-- adversarial: begin -->", "<!-- adversarial: end -->"


def section(outcomes: Sequence[ChangeOutcome]) -> str:
    """The tables of a campaign, as a part of docs/mutants.md."""
    files = sorted({outcome.file for outcome in outcomes})
    kinds = [*OF_ELF, *of_bzimage.OF_BZIMAGE]
    counts = {key: Counter[str]() for key in ((k, f) for k in kinds for f in files)}
    for outcome in outcomes:
        counts[outcome.kind, outcome.file][outcome.result] += 1
    total = sum(counts.values(), Counter[str]())
    seeds = ", ".join(map(str, sorted({outcome.seed for outcome in outcomes})))
    rows = [f"| kind of change | {' | '.join(f'{f}: refused | of' for f in files)} |",
            "| --- |" + " ---: | ---: |" * len(files)]  # fmt: skip
    every = {f: sum((counts[k, f] for k in kinds), Counter[str]()) for f in files}
    for label, of in [("all", every), *((k, {f: counts[k, f] for f in files}) for k in kinds)]:
        cells = "".join(f" {of[f][REFUSED]} | {of[f].total()} |" for f in files)
        rows.append(f"| {label} |{cells}")
    by = Counter(outcome.by for outcome in outcomes if outcome.result == REFUSED)
    first = ", ".join(f"{rule} {count}" for rule, count in sorted(by.items()))
    free = Counter(outcome.by for outcome in outcomes if outcome.result == FREE_BY_TABLE)
    table = "\n".join(
        f"| {row.what} | {row.only_if} | {free[row.what]} | {row.source} |" for row in FREE
    )
    return f"""## Deliberate changes

`python -m tests.verify.adversarial`, the second half of `make mutants`, changes outputs as somebody
would who knows the format and the code of the proof: each field of each header, each section and
segment added, removed, resized, reordered, relocations, symbols, gaps and tails, notes, manifest,
records, thunks, and of a bzImage the headers for loaders and for EFI, boot code, payload and the
kernel in it. A change is refused by a rule, or the file is not even read; or it touches only what
the closed table below names.

Seeds {seeds}: {total.total()} changes, {total[REFUSED]} refused, \
{total[FREE_BY_TABLE]} free by the table, {total[ACCEPTED]} accepted, {total[FAILED]} failed.

{chr(10).join(rows)}

The rule that was broken first: {first}.

| free | only if | met | why neither ELF nor Linux looks at it |
| --- | --- | ---: | --- |
{table}
"""


def write_page(page: Path, outcomes: Sequence[ChangeOutcome]) -> None:
    """Put the section where it was, or at the end."""
    text = page.read_text()
    made = f"{BEGIN}\n{section(outcomes)}{END}\n"
    if BEGIN in text:
        text = text[: text.index(BEGIN)] + made + text[text.index(END) + len(END) + 1 :]
    else:
        text = text.rstrip("\n") + "\n\n" + made
    with tempfile.NamedTemporaryFile("w", dir=page.parent, delete=False) as new:
        new.write(text)
    Path(new.name).replace(page)


def kept_section(page: Path) -> str:
    """The section as it stands on a page, so that whatever writes the rest keeps it."""
    text = page.read_text() if page.exists() else ""
    return text[text.index(BEGIN) : text.index(END) + len(END) + 1] if BEGIN in text else ""
