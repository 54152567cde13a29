# SPDX-License-Identifier: MIT
"""`vmipatch explain`: what a numbered rule of the static check demands."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vmipatch.cli.console import Console, json_option, json_output, pass_console
from vmipatch.files.outputs import STDOUT, check_outputs, write_all

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from vmipatch.verify.static.rules import Rule

SCHEMA = "vmipatch.explain/1"
WIDTH = 88


def _rules(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """Numbers of rules that begin so, for a shell that shows their titles beside them."""
    from click.shell_completion import CompletionItem

    from vmipatch.verify.static.rules import RULES

    fitting = (rule for rule in RULES if rule.number.startswith(begun.upper()))
    return [CompletionItem(rule.number, help=rule.title) for rule in fitting]


@click.command(
    "explain",
    epilog="Example: vmipatch explain VP001",
    short_help="Explain a numbered rule of the static check.",
)
@click.argument("rule", required=False, shell_complete=_rules)
@json_option
@pass_console
def explain_command(console: Console, rule: str | None, json_file: str | None) -> None:
    """Explain RULE, for example VP001; without a rule, list them all."""
    from vmipatch.verify.static.rules import RULES

    check_outputs([], [json_file])
    wanted = [known for known in RULES if rule is None or known.number == rule.upper()]
    if not wanted:
        raise click.UsageError(f"there is no rule {rule}: `vmipatch explain` lists them")
    if json_file is not None:
        report = {"rules": [asdict(known) for known in wanted]}
        write_all([json_output(json_file, SCHEMA, report)])
    if json_file == STDOUT:
        return
    if rule is None:
        for known in wanted:
            console.data(f"{known.number}  {known.title}")
    else:
        _explain(console, wanted[0])


def _explain(console: Console, rule: Rule) -> None:
    console.data(f"{rule.number}: {rule.title}\n")
    console.data(textwrap.fill(rule.demand, WIDTH) + "\n")
    console.data(textwrap.fill(f"Example: {rule.example}", WIDTH) + "\n")
    console.data(textwrap.fill(f"What to do: {rule.remedy}", WIDTH))
