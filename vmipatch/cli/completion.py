# SPDX-License-Identifier: MIT
"""`vmipatch completion`: the script that teaches a shell our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion", epilog='Example: eval "$(vmipatch completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None, "the choices are shells that click knows"
    root = context.find_root().command
    click.echo(kind(root, {}, "vmipatch", "_VMIPATCH_COMPLETE").source())
