# SPDX-License-Identifier: MIT
"""What do `rewrite --tree` and `verify --tree` make of a tree of modules, good and damaged?"""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from tests.cli.commands import invoke, validated
from tests.support.smallmodule import SmallModule
from vmipatch.cli.module_tree import JOURNAL
from vmipatch.errors import ExitCode


def module(code: str) -> bytes:
    small = SmallModule()
    small.section(".text").function("f", code)
    return small.build()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    below = tmp_path / "tree" / "kernel"
    below.mkdir(parents=True)
    (below / "site.ko").write_bytes(module("9c 58 fa c3"))
    (below / "plain.ko").write_bytes(module("c3"))
    (below / "packed.ko.xz").write_bytes(lzma.compress(module("fb 90 c3")))
    (tmp_path / "tree" / "modules.order").write_text("kernel/site.ko\n")
    return tmp_path / "tree"


def contents(tree: Path) -> dict[str, bytes]:
    return {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()}


def test_tree_is_rewritten_alike_each_time_and_proven(tree: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        done = invoke("rewrite", "--tree", tree, "-o", tmp_path / name)
        assert done.returncode == ExitCode.SUCCESS, done.stderr
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    assert one.keys() == contents(tree).keys()
    assert one["kernel/plain.ko"] == (tree / "kernel" / "plain.ko").read_bytes()
    proof = invoke("verify", "--tree", tmp_path / "one", "--original", tree, "--json", "-")
    report = validated(proof.stdout, "tree-1")
    assert (report["outcomes"], report["sites"]) == ({"proven": 3}, 3)


def test_damaged_module_is_one_error_and_the_rest_is_done(tree: Path, tmp_path: Path) -> None:
    (tree / "kernel" / "cut.ko").write_bytes(module("fa c3")[:200])
    done = invoke("rewrite", "--tree", tree, "-o", tmp_path / "out", "--json", tmp_path / "log")
    assert done.returncode == ExitCode.INPUT
    assert done.stderr.count("cut.ko") == 1
    report = validated((tmp_path / "log").read_text(), "tree-1")
    assert report["outcomes"] == {"copied": 1, "failed": 1, "rewritten": 2, "untouched": 1}
    assert not (tmp_path / "out" / "kernel" / "cut.ko").exists()
    assert not (tmp_path / "out" / JOURNAL).exists()


def test_changed_output_is_refuted(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert invoke("rewrite", "--tree", tree, "-o", out).returncode == ExitCode.SUCCESS
    (out / "kernel" / "site.ko").write_bytes((tree / "kernel" / "site.ko").read_bytes())
    proof = invoke("verify", "--tree", out, "--original", tree)
    assert proof.returncode == ExitCode.FINDINGS
