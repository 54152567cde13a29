# SPDX-License-Identifier: MIT
"""How does docs/troubleshooting.md keep every message? `python -m tools.troubleshooting` writes it.

Messages and remedies come from the sources. A cause is written by hand, into the page: it is kept
with its message. So is a remedy where the sources have none. A new message has an empty cause,
which tests/tools/test_troubleshooting.py refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.messages import messages

PAGE: Final = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
Key = tuple[str, str]
"""Class and message."""

_HEAD: Final = """\
<!-- SPDX-License-Identifier: MIT -->
<!-- `python -m tools.troubleshooting` writes messages and remedies from the sources; causes are
written here, by hand. -->
# Troubleshooting by message

Every message of an error, its cause, and what to do. An error is one line on standard error:

```
vmipatch: FILE: PLACE: MESSAGE (REMEDY)
```

`…` stands for what differs from file to file.
Where the remedy is "report this kernel", `vmipatch doctor FILE --bundle report.tar.gz` packs what a
report needs, without code, data and names ([guide](guide.md#before-you-rewrite)).
A verdict that does not hold is not an error, and is not listed here: `vmipatch explain RULE` says
what a rule of the static check is about, [the guide](guide.md#reading-a-verdict) how to read the
rest.
"""


@dataclass(frozen=True, slots=True)
class Group:
    """One class of errors on the page."""

    error: str
    heading: str
    text: str


GROUPS: Final = (
    Group("UsageError", "The command line", "Exit code 2: options that do not go together."),
    Group("BadParameter", "Values of options", "Exit code 2."),
    Group(
        "NotServed", "A job that a file does not have",
        "Exit code 2: the file is sound, and is not of the kind that this option or job is for.",
    ),
    Group("OutputTaken", "Outputs in the way", "Exit code 2: nothing was written."),
    Group(
        "NotSupported", "Sound files that are not supported",
        "Exit code 3. The list of what is refused, kind by kind: "
        "[guide](guide.md#what-is-refused).",
    ),
    Group(
        "UnclassifiedReference", "References that are not understood",
        "Exit code 3. Code moves when sites grow, so each reference to it must be known. One that "
        "could mean two things is an error, never a guess.",
    ),
    Group(
        "MalformedImage", "Damaged files",
        "Exit code 3: a file that contradicts itself or its format, most often after a copy that "
        "was cut short, a tool that edited it, or a strip.",
    ),
    Group(
        "MalformedTable", "Tables of the kernel",
        "Exit code 3: a table that the kernel keeps about its own code fails its validation. The "
        "message begins with the table's name.",
    ),
    Group(
        "InputNotUnderstood", "Other inputs",
        "Exit code 3: a file that was read is not what the command can work on.",
    ),
    Group(
        "EnvironmentProblem", "The system",
        "Exit code 4: a file or program is missing, or the system refused an operation.",
    ),
    Group(
        "AssemblyFailed", "Assembly",
        "Exit code 5: a source that comes with vmipatch was refused by the assembler (keystone).",
    ),
    Group(
        "VmipatchError", "Bugs of vmipatch",
        "Exit code 5. Most of these are caught on the way; one that reaches a user is a bug. "
        "`-v` shows where it was raised.",
    ),
)  # fmt: skip
"""In the order of exit codes; each class of vmipatch/errors.py that is raised, and click's."""


@dataclass(frozen=True, slots=True)
class PageRow:
    """The cells after one message."""

    cause: str
    remedy: str


def code(text: str) -> str:
    """`text` as code in a cell of a table."""
    shown = text.replace("|", "\\|")
    return f"`` {shown} ``" if "`" in text else f"`{shown}`"


def rows_of(page: str) -> dict[Key, PageRow]:
    """Causes and remedies that a page has, by class and message as `code` writes it."""
    errors = {group.heading: group.error for group in GROUPS}
    found, error = {}, ""
    for line in page.splitlines():
        if line.startswith("## "):
            error = errors.get(line.removeprefix("## "), "")
        elif error and line.startswith("| `"):
            message, cause, remedy = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:4])
            found[error, message] = PageRow(cause, remedy)
    return found


def page_of(raised: Mapping[Key, list[str]], kept: Mapping[Key, PageRow]) -> str:
    """The page about the messages that are raised, with causes that were kept."""
    return _HEAD + "".join("\n" + part for part in _parts(raised, kept))


def _parts(raised: Mapping[Key, list[str]], kept: Mapping[Key, PageRow]) -> Iterator[str]:
    for group in GROUPS:
        yield f"## {group.heading}\n\n{group.text}\n\n| message | cause | remedy |\n" + (
            "| --- | --- | --- |\n"
            + "".join(
                _line(text, hints, kept.get((group.error, code(text)), PageRow("", "")))
                for (error, text), hints in raised.items()
                if error == group.error
            )
        )


def _line(text: str, hints: list[str], row: PageRow) -> str:
    remedy = "; or ".join(hints).replace("|", "\\|") or row.remedy
    return f"| {code(text)} | {row.cause} | {remedy} |\n"


def main() -> None:
    """Write the page again."""
    old = PAGE.read_text("utf-8") if PAGE.exists() else ""
    PAGE.write_text(page_of(messages(), rows_of(old)), encoding="utf-8")


if __name__ == "__main__":
    main()
