# SPDX-License-Identifier: MIT
"""`vmipatch`: the group of commands, and what becomes of errors."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from vmipatch import __version__
from vmipatch.cli.console import Console, pass_console
from vmipatch.errors import ExitCode, VmipatchError, escaped

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
143  terminated
"""

INTERRUPTED = 128 + signal.SIGINT
"""A shell's exit code for the end by Ctrl-C."""
TERMINATED = 128 + signal.SIGTERM
"""The same of `kill` and of a batch system whose time is over."""
GC_THRESHOLD = 100_000
"""New objects between two searches for cycles. Commands make large tables and few cycles: with
Python's 700 the searches take a tenth of their time."""


class Terminated(BaseException):
    """SIGTERM: what is half done is taken back on the way out, as after Ctrl-C."""


class Commands(click.Group):
    """A group that knows its commands by name, and imports the one that is asked for.

    All of them together are an emulator, two decoders and an assembler, and take longer to import
    than most commands take to run.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in self.commands:
            return None
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"vmipatch.cli.{name}")
        command: click.Command = getattr(module, f"{name}_command")
        return command


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmipatch")
@pass_console
def cli(_: Console) -> None:
    """Rewrite i386 Linux kernels into kernels that also run on a VMI hypervisor."""


for name in (
    "scan", "rewrite", "verify", "restore", "doctor", "wrap", "rom", "xen-image", "run", "explain",
    "completion",
):  # fmt: skip
    cli.add_command(click.Command(name))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default the one of this process; its documented exit code."""
    console = Console()
    try:
        # Without standalone mode click returns the code that a command or --help exits with.
        code = cli.main(arguments, prog_name="vmipatch", standalone_mode=False, obj=console)
    except (click.Abort, KeyboardInterrupt):
        _tell("vmipatch: interrupted")
        return INTERRUPTED
    except Terminated:
        _tell("vmipatch: terminated")
        return TERMINATED
    except click.ClickException as error:
        vars(error)["message"] = escaped(error.message)  # it names what was given: anything
        error.show()
        return error.exit_code
    except VmipatchError as error:
        _tell(f"vmipatch: {error}")
        return error.exit_code
    except BrokenPipeError:
        return ExitCode.ENVIRONMENT
    except OSError as error:  # of click's own output, such as help
        _tell(f"vmipatch: standard output: {error.strerror} (choose a place that has room)")
        return ExitCode.ENVIRONMENT
    except Exception as error:  # the funnel: a user never sees a bare traceback
        if console.verbosity > 0:
            traceback.print_exc()
        _tell(f"vmipatch: internal error: {escaped(repr(error))} (-v shows where; report it)")
        return ExitCode.INTERNAL
    return code if isinstance(code, int) else ExitCode.SUCCESS


def _tell(line: str) -> None:
    """To standard error; where that is full or closed, no one is left to tell."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    gc.set_threshold(GC_THRESHOLD)
    signal.signal(signal.SIGTERM, _terminate)
    code = run()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Python flushes once more at its end, and would then complain with a code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or ExitCode.ENVIRONMENT
    sys.exit(code)
