# SPDX-License-Identifier: MIT
"""Is every input read once, so that what is named by hash is what was worked on?"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import invoke, validated
from tests.files.samples import module
from vmipatch.errors import ExitCode
from vmipatch.files import verification
from vmipatch.files.open import open_kernel
from vmipatch.rewrite import RewriteOptions
from vmipatch.verify.plan import verify
from vmipatch.verify.static.module import check_module


@contextmanager
def fed(pipe: Path, data: bytes) -> Iterator[Path]:
    """A pipe through which `data` comes once; a second reader would wait for ever."""
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(data), daemon=True)
    writer.start()
    yield pipe
    writer.join(timeout=60)
    assert not writer.is_alive(), "no one has read it"
    pipe.unlink()


@pytest.fixture(scope="module")
def pair(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The example kernel, and the rewritten one."""
    output = tmp_path_factory.mktemp("pair") / "vmlinux.vmi"
    output.write_bytes(open_kernel(guest).rewrite(RewriteOptions()).data)
    return guest, output


@pytest.mark.parametrize("way", ["file", "pipe"])
@pytest.mark.parametrize(
    ("command", "rewritten"),
    [
        ("scan IN --json -", False),
        ("rewrite IN -o OUT", False),
        ("restore IN -o OUT", True),
        ("wrap IN -o OUT", True),
        ("run IN --native --limit 0.01", True),
        ("verify IN --static --original WAS", True),
        ("verify IN --sites --states 1", True),
    ],
)
def test_command_takes_its_kernel_from_a_pipe(
    command: str, rewritten: bool, way: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    original, output = pair
    data = (output if rewritten else original).read_bytes()
    words = {"OUT": tmp_path / "out", "WAS": original, "IN": tmp_path / "in"}
    arguments = [str(words.get(word, word)) for word in command.split()]
    if way == "pipe":
        with fed(words["IN"], data):
            done = invoke(*arguments)
    else:
        words["IN"].write_bytes(data)
        done = invoke(*arguments)
    expected = ExitCode.FINDINGS if "--limit" in command else ExitCode.SUCCESS
    assert done.returncode == expected, done.stderr
    if "OUT" in command:
        whole = tmp_path / "whole"
        whole.write_bytes(data)
        invoke(*(str({"IN": whole, "OUT": tmp_path / "same"}.get(w, w)) for w in command.split()))
        assert (tmp_path / "out").read_bytes() == (tmp_path / "same").read_bytes()


def test_original_and_debug_twin_come_from_pipes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, output = pair
    with fed(tmp_path / "was", original.read_bytes()) as was:
        done = invoke("verify", "--static", output, "--original", was)
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    packed = tmp_path / "bzImage"
    packed.write_bytes(open_kernel(original).wrap().data)
    with fed(tmp_path / "twin", original.read_bytes()) as twin:
        done = invoke("rewrite", packed, "--debug", twin, "-o", tmp_path / "out")
    assert done.returncode == ExitCode.SUCCESS, done.stderr


def test_certificate_names_the_bytes_that_were_proven(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files are replaced as soon as the verification begins."""
    original, output = (Path(shutil.copy(path, tmp_path)) for path in pair)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (original, output)]
    real: Callable[..., Any] = verify

    def replaced(*arguments: Any) -> Any:
        for path in (original, output):
            path.write_bytes(b"another file")
        return real(*arguments)

    monkeypatch.setattr(verification, "verify", replaced)
    paper = tmp_path / "certificate"
    words = ("--original", original, "--certificate", paper)
    done = invoke("verify", "--static", output, *words)
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    certificate = validated(paper.read_text(), "certificate-1")
    assert [certificate["input_sha256"], certificate["output_sha256"]] == digests
    assert output.read_bytes() == b"another file"


def test_certificate_of_a_module_names_the_bytes_that_were_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, output, paper = (tmp_path / name for name in ("m.ko", "out.ko", "certificate"))
    original.write_bytes(module())
    assert invoke("rewrite", original, "-o", output).returncode == ExitCode.SUCCESS
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (original, output)]
    real: Callable[..., Any] = check_module

    def replaced(*arguments: Any) -> Any:
        for path in (original, output):
            path.write_bytes(b"another file")
        return real(*arguments)

    monkeypatch.setattr(verification, "check_module", replaced)
    done = invoke("verify", output, "--original", original, "--certificate", paper)
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    certificate = validated(paper.read_text(), "certificate-1")
    assert [certificate["input_sha256"], certificate["output_sha256"]] == digests
    assert certificate["rom_sha256"] is None
