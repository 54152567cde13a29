# SPDX-License-Identifier: MIT
"""How does a compressor that no library equals come in? As the program that kernel builds run."""

from __future__ import annotations

import os
import shutil
import subprocess

from vmipatch.errors import EnvironmentProblem

_READ_BY_COMPRESSORS = ("GZIP", "LZOP", "ZSTD_CLEVEL", "ZSTD_NBTHREADS")
"""Variables from which these programs take more options."""


def is_there(program: str) -> bool:
    """Whether the system has `program`."""
    return shutil.which(program) is not None


def run_compressor(program: str, options: str, data: bytes) -> bytes:
    """Output of `program` for `data` on its standard input.

    Raises EnvironmentProblem if it is missing or fails.
    """
    if not is_there(program):
        raise EnvironmentProblem(
            f"the program {program} is not installed",
            hint=f"install {program}: this kernel's build compressed with it",
        )
    environment = {k: v for k, v in os.environ.items() if k not in _READ_BY_COMPRESSORS}
    done = subprocess.run(
        [program, *options.split()], input=data, capture_output=True, env=environment, check=False
    )
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip()
        raise EnvironmentProblem(
            f"{program} {options} failed: {complaint or done.returncode}",
            hint="is there enough memory and room for temporary files?",
        )
    return done.stdout
