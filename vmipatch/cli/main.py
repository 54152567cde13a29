# SPDX-License-Identifier: MIT
"""`vmipatch`: the group of commands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

import click

from vmipatch import __version__
from vmipatch.cli.completion import completion_command
from vmipatch.cli.console import Console
from vmipatch.cli.explain import explain_command
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
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmipatch")
@click.option("-v", "--verbose", count=True, help="Say more; tracebacks of internal errors.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but data and errors.")
@click.pass_context
def cli(context: click.Context, verbose: int, quiet: bool) -> None:
    """Rewrite i386 Linux kernels into kernels that also run on a VMI hypervisor."""
    context.obj = Console(-1 if quiet else verbose)


for command in (
    scan_command, rewrite_command, verify_command, wrap_command, rom_command, run_command,
    explain_command,
    completion_command,
):  # fmt: skip
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and end the process with a documented exit code."""
    try:
        # Without standalone mode click returns the code that a command or --help exits with.
        code = cli.main(prog_name="vmipatch", standalone_mode=False)
    except click.Abort:
        sys.exit(128 + 2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except VmipatchError as error:
        click.echo(f"vmipatch: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.ENVIRONMENT)
    except Exception as error:  # the funnel: a user never sees a bare traceback
        if any(flag in sys.argv for flag in ("-v", "--verbose")):
            traceback.print_exc()
        click.echo(f"vmipatch: internal error: {error!r} (-v shows where; report it)", err=True)
        sys.exit(ExitCode.INTERNAL)
    sys.exit(code if isinstance(code, int) else ExitCode.SUCCESS)
