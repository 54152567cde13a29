# SPDX-License-Identifier: MIT
"""`vmipatch`: the group of commands, and what becomes of errors."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from vmipatch import __version__
from vmipatch.cli.completion import completion_command
from vmipatch.cli.console import Console, pass_console
from vmipatch.cli.explain import explain_command
from vmipatch.cli.restore import restore_command
from vmipatch.cli.rewrite import rewrite_command
from vmipatch.cli.rom import rom_command
from vmipatch.cli.run import run_command
from vmipatch.cli.scan import scan_command
from vmipatch.cli.verify import verify_command
from vmipatch.cli.wrap import wrap_command
from vmipatch.errors import ExitCode, VmipatchError

EPILOG = """\b
Exit codes:
  0  success
  1  findings: a check ran to its end and did not hold
  2  wrong command line
  3  an input file was not understood
  4  a file or program is missing, or the system refused
  5  internal error, a bug of vmipatch
  6  all holds, but fewer sites were executed than required
130  interrupted by the user
"""

INTERRUPTED = 128 + signal.SIGINT
"""What a shell calls the end by Ctrl-C."""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmipatch")
@pass_console
def cli(_: Console) -> None:
    """Rewrite i386 Linux kernels into kernels that also run on a VMI hypervisor."""


for command in (
    scan_command, rewrite_command, verify_command, restore_command, wrap_command, rom_command,
    run_command, explain_command,
    completion_command,
):  # fmt: skip
    cli.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default the one of this process; its documented exit code."""
    console = Console()
    try:
        # Without standalone mode click returns the code that a command or --help exits with.
        code = cli.main(arguments, prog_name="vmipatch", standalone_mode=False, obj=console)
    except (click.Abort, KeyboardInterrupt):
        click.echo("vmipatch: interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except VmipatchError as error:
        click.echo(f"vmipatch: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        return ExitCode.ENVIRONMENT
    except Exception as error:  # the funnel: a user never sees a bare traceback
        if console.verbosity > 0:
            traceback.print_exc()
        click.echo(f"vmipatch: internal error: {error!r} (-v shows where; report it)", err=True)
        return ExitCode.INTERNAL
    return code if isinstance(code, int) else ExitCode.SUCCESS


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    code = run()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Python flushes once more at its end, and would then complain with a code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or ExitCode.ENVIRONMENT
    sys.exit(code)
