# SPDX-License-Identifier: MIT
"""How a command talks: data to standard output, everything else to standard error."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from vmipatch import __version__
from vmipatch.errors import escaped
from vmipatch.files.outputs import STDOUT, Output, write_all

P = ParamSpec("P")
R = TypeVar("R")

QUIET = -1
STDOUT_NAMES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
"""Other names of standard output, whose file would be replaced while a shell still holds it."""
LINES = "\n\t"
"""Control characters that may stand in a text of several lines."""


@dataclass(slots=True)
class Console:
    """The user's -v and -q, kept for all commands."""

    verbosity: int = 0
    """How many -v, or QUIET, which wins."""

    def say(self, text: str) -> None:
        """Tell the user what was done; silent with -q."""
        if self.verbosity > QUIET:
            _tell(text)

    def complain(self, text: str) -> None:
        """Tell the user what went wrong, even with -q."""
        _tell(text)

    def detail(self, text: str) -> None:
        """Tell more, with -v."""
        if self.verbosity > 0:
            _tell(text)

    def data(self, text: str, style: Callable[[str], str] = str) -> None:
        """Print what the user asked for, styled for a terminal. Raises EnvironmentProblem."""
        write_all([Output(STDOUT, f"{style(escaped(text, LINES))}\n".encode())])


def _tell(text: str) -> None:
    """To standard error; where that is full or closed, no one is left to tell."""
    with contextlib.suppress(OSError):
        click.echo(escaped(text, LINES), err=True)


def _be_verbose(context: click.Context, _: click.Parameter, count: int) -> None:
    console = context.ensure_object(Console)
    if console.verbosity > QUIET:
        console.verbosity += count


def _be_quiet(context: click.Context, _: click.Parameter, quiet: bool) -> None:
    if quiet:
        context.ensure_object(Console).verbosity = QUIET


def pass_console(function: Callable[Concatenate[Console, P], R]) -> Callable[P, R]:
    """Give a command the console as its first argument, and the options -v and -q.

    The group of commands and each command have them, so both places are good.
    """

    @functools.wraps(function)
    def with_console(*args: P.args, **kwargs: P.kwargs) -> R:
        console = click.get_current_context().ensure_object(Console)
        return function(console, *args, **kwargs)

    verbose = click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=_be_verbose,
        help="Say more; tracebacks of internal errors.",
    )  # fmt: skip
    quiet = click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_be_quiet,
        help="Say nothing but data and errors.",
    )  # fmt: skip
    return verbose(quiet(with_console))


class OutputPath(click.Path):
    """Where an output goes; standard output by whatever name is `-`, and is never replaced."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path as it was given, or STDOUT."""
        path = str(super().convert(value, param, ctx))
        return STDOUT if path in STDOUT_NAMES else path


def address(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """An address of 32 bits, as Python writes numbers: 0x100000. A callback of options."""
    if text is None:
        return None
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 32:
        raise click.BadParameter(f"{text} is not an address of 32 bits, for example 0x100000")
    return value


json_option = click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=OutputPath(),
    help="Write the report as JSON to FILE, - for stdout.",
)


def json_output(json_file: str, schema: str, report: dict[str, Any]) -> Output:
    """A report under the name and version of its schema, for example `vmipatch.scan/1`."""
    document = {"schema": schema, "vmipatch": __version__, **report}
    return Output(json_file, (json.dumps(document, indent=1) + "\n").encode())
