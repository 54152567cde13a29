# SPDX-License-Identifier: MIT
"""How do the man pages come to be? `python -m tools.man_pages` makes docs/man of click's commands.

The same gives docs/commands.md, a page of the site. The wheel has the man pages in share/man/man1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from vmipatch import __version__
from vmipatch.cli.main import EPILOG, cli

DOCS: Final = Path(__file__).parent.parent / "docs"
PROGRAM: Final = "vmipatch"
BAR: Final = "\\|"
"""A bar in a cell of a table."""
WIDE: Final = 10_000
"""Columns of a line that click does not break."""
_HEAD_OF_SITE: Final = """\
<!-- SPDX-License-Identifier: MIT -->
<!-- Written by `python -m tools.man_pages` from the commands: change their help. -->
# Commands

Also as man pages, `man vmipatch` and `man vmipatch-rewrite`, where the wheel was installed below a
directory that `man` searches. A shell completes commands, options and numbers of rules:
`eval "$(vmipatch completion bash)"`.
"""


@dataclass(frozen=True, slots=True)
class Page:
    """A command as help, man page and site show it."""

    name: str
    """vmipatch, or vmipatch-scan."""
    summary: str
    usage: str
    paragraphs: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    example: str
    """Empty if its help has none."""

    @property
    def invocation(self) -> str:
        """As it is typed: `vmipatch scan`."""
        return self.name.replace("-", " ", 1)


def pages() -> Iterator[Page]:
    """The program's page, then one for each command by name."""
    context = cli.make_context(
        PROGRAM, [], resilient_parsing=True, terminal_width=WIDE, max_content_width=WIDE
    )
    yield _page(context, PROGRAM)
    for name in sorted(cli.commands):
        command = cli.get_command(context, name)
        assert command is not None, "the group lists it"
        own = command.make_context(name, [], parent=context, resilient_parsing=True)
        yield _page(own, f"{PROGRAM}-{name}")


def _page(context: click.Context, name: str) -> Page:
    command = context.command
    options = (each for each in command.params if isinstance(each, click.Option))
    # click keeps the option for help as it was first asked for, perhaps without the program.
    help_option = ", ".join(context.help_option_names), "Show this message and exit."
    records = (*(each.get_help_record(context) for each in options), help_option)
    summary, *rest = (" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    epilog = command.epilog or ""
    return Page(
        name,
        command.short_help or summary,
        " ".join(command.collect_usage_pieces(context)),
        (summary, *rest),
        tuple((names, " ".join(text.split())) for names, text in filter(None, records)),
        epilog.removeprefix("Example: ") if epilog.startswith("Example: ") else "",
    )


def exit_codes() -> Iterator[tuple[str, str]]:
    """Each exit code and its meaning, as the program's help lists them."""
    for line in EPILOG.splitlines():
        if found := re.fullmatch(r" *(\d+)  (.+)", line):
            yield found[1], found[2]


def roff(text: str) -> str:
    """A text as a line of a man page."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def man_page(page: Page, commands: list[Page]) -> str:
    """The page in roff, for man(7); `commands` are named by the program's and below each."""
    parts = [
        # REUSE-IgnoreStart
        '.\\" SPDX-License-Identifier: MIT',
        # REUSE-IgnoreEnd
        '.\\" Written by python -m tools.man_pages from the commands.',
        f'.TH {page.name.upper()} 1 "" "{PROGRAM} {__version__}" "User commands"',
        ".SH NAME",
        f"{roff(page.name)} \\- {roff(page.summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {roff(page.invocation)}",
        roff(page.usage),
        ".SH DESCRIPTION",
        "\n.PP\n".join(roff(text) for text in page.paragraphs),
        ".SH OPTIONS",
    ]
    for names, text in page.options:
        parts += [".TP", f".B {roff(names)}", roff(text)]
    if page.name == PROGRAM:
        parts.append(".SH COMMANDS")
        for other in commands:
            parts += [".TP", f".BR {roff(other.name)} (1)", roff(other.summary)]
    if page.example:
        parts += [".SH EXAMPLES", ".nf", roff(page.example), ".fi"]
    parts.append(".SH EXIT STATUS")
    for code, meaning in exit_codes():
        parts += [".TP", f".B {code}", roff(meaning)]
    others = [other.name for other in commands if other is not page]
    seen = ", ".join(f"\\fB{roff(name)}\\fR(1)" for name in others)
    return "\n".join([*parts, ".SH SEE ALSO", seen, ""])


def site_page(all_pages: list[Page]) -> str:
    """The page of the site."""
    text = _HEAD_OF_SITE
    for page in all_pages:
        text += f"\n## {page.invocation}\n\n```\n{page.invocation} {page.usage}\n```\n\n"
        text += "\n\n".join(page.paragraphs) + "\n\n| option | does |\n| --- | --- |\n"
        for names, what in page.options:
            text += f"| `{names.replace('|', BAR)}` | {what.replace('|', BAR)} |\n"
        if page.example:
            text += f"\n```\n{page.example}\n```\n"
    text += "\n## Exit codes\n\n| code | meaning |\n| --- | --- |\n"
    return text + "".join(f"| {code} | {meaning} |\n" for code, meaning in exit_codes())


def files() -> dict[Path, str]:
    """Every file that is made, with its text."""
    all_pages = list(pages())
    commands = all_pages[1:]
    made = {DOCS / "man" / f"{page.name}.1": man_page(page, commands) for page in all_pages}
    return {**made, DOCS / "commands.md": site_page(all_pages)}


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
