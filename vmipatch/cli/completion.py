# SPDX-License-Identifier: MIT
"""`vmipatch completion`: the script that teaches a shell our commands and options."""

from __future__ import annotations

import click

from vmipatch.cli.console import Console, json_option, json_output, pass_console
from vmipatch.files.outputs import STDOUT, check_outputs, write_all

SCHEMA = "vmipatch.completion/1"


@click.command(
    "completion",
    epilog='Example: eval "$(vmipatch completion bash)"',
    short_help="Print the completion script for a shell.",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
@pass_console
def completion_command(console: Console, shell: str, json_file: str | None) -> None:
    """Print the completion script for SHELL."""
    check_outputs([], [json_file])
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "the choices are shells that click knows"
    root = click.get_current_context().find_root().command
    script = kind(root, {}, "vmipatch", "_VMIPATCH_COMPLETE").source()
    if json_file is not None:
        write_all([json_output(json_file, SCHEMA, {"shell": shell, "script": script})])
    if json_file != STDOUT:
        console.data(script)
