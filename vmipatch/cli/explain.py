# SPDX-License-Identifier: MIT
"""`vmipatch explain`: what a numbered rule of the static check demands."""

from __future__ import annotations

import textwrap

import click

from vmipatch.cli.console import Console, pass_console
from vmipatch.verify.static.rules import RULES

WIDTH = 88


@click.command("explain", epilog="Example: vmipatch explain VP001")
@click.argument("rule", required=False)
@pass_console
def explain_command(console: Console, rule: str | None) -> None:
    """Explain RULE, for example VP001; without a rule, list them all."""
    if rule is None:
        for known in RULES:
            console.data(f"{known.number}  {known.title}")
        return
    found = next((known for known in RULES if known.number == rule.upper()), None)
    if found is None:
        raise click.UsageError(f"there is no rule {rule}: `vmipatch explain` lists them")
    console.data(f"{found.number}: {found.title}\n")
    console.data(textwrap.fill(found.demand, WIDTH) + "\n")
    console.data(textwrap.fill(f"Example: {found.example}", WIDTH) + "\n")
    console.data(textwrap.fill(f"What to do: {found.remedy}", WIDTH))
