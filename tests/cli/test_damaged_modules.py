# SPDX-License-Identifier: MIT
"""Does a damaged module end in one clear error, or in a result that is proven?"""

from __future__ import annotations

import lzma
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli.commands import invoke, validated
from tests.cli.judge import check_command
from tests.restore.test_module import sample
from tests.support.damage import Damage, damages
from vmipatch.errors import ExitCode
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite.module import rewrite_module
from vmipatch.verify.static.module import check_module

MANY = 40


@cache
def original() -> ElfImage:
    return ElfImage.parse(sample(), "sample")


@cache
def rewritten() -> ElfImage:
    return ElfImage.parse(rewrite_module(sample(), "sample").data, "rewritten")


@settings(max_examples=MANY)
@given(damage=damages)
def test_rewrite_of_a_damaged_module(damage: Damage) -> None:
    data = damage.apply(original())
    written = check_command(data, "rewrite")
    if written is not None:
        verdict = check_module(data, written)
        assert verdict.holds, [str(finding) for finding in verdict.findings]


@settings(max_examples=MANY)
@given(damage=damages)
def test_restore_of_a_damaged_module(damage: Damage) -> None:
    written = check_command(damage.apply(rewritten()), "restore")
    assert written in (None, sample())


@settings(max_examples=MANY // 2)
@given(damage=damages)
def test_verify_of_a_damaged_module(damage: Damage) -> None:
    with tempfile.TemporaryDirectory() as directory:
        was, now = Path(directory, "was.ko"), Path(directory, "now.ko")
        was.write_bytes(sample())
        now.write_bytes(damage.apply(rewritten()))
        done = invoke("verify", now, "--original", was)
    assert "Traceback" not in done.stderr
    assert done.returncode in (ExitCode.SUCCESS, ExitCode.FINDINGS, ExitCode.INPUT)
    assert done.returncode != ExitCode.INPUT or done.stderr.count("\n") == 1


@settings(max_examples=4)
@given(damage=st.lists(damages, min_size=8, max_size=8))
def test_tree_goes_on_and_counts(damage: list[Damage]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        tree, out, log = (Path(directory, name) for name in ("tree", "out", "log"))
        tree.mkdir()
        for number, each in enumerate(damage):
            (tree / f"{number}.ko").write_bytes(each.apply(original()))
        (tree / "good.ko").write_bytes(sample())
        (tree / "stream.ko.xz").write_bytes(lzma.compress(sample())[:-9])
        done = invoke("rewrite", "--tree", tree, "-o", out, "--jobs", "1", "--json", log)
        files = {row["path"]: row for row in validated(log.read_text(), "tree-1")["files"]}
        assert done.returncode == ExitCode.INPUT
        assert len(files) == len(damage) + 2
        assert files["good.ko"]["outcome"] == "rewritten"
        for path, row in files.items():
            failed = row["outcome"] == "failed"
            assert (out / path).exists() is not failed
            assert done.stderr.count(f"{path}:") == failed, done.stderr
            assert "\n" not in row["message"]


@pytest.mark.slow
@settings(max_examples=2000)
@given(damage=damages)
def test_campaign_of_damaged_modules(damage: Damage) -> None:
    test_rewrite_of_a_damaged_module.hypothesis.inner_test(damage)  # type: ignore[attr-defined]
