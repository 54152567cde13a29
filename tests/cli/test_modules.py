# SPDX-License-Identifier: MIT
"""What do `rewrite --tree` and `verify --tree` make of a tree of modules, good and damaged?"""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from tests.cli.commands import invoke, validated
from tests.support.smallmodule import SmallModule
from vmipatch.cli.main import INTERRUPTED
from vmipatch.errors import ExitCode
from vmipatch.files.journal import JOURNAL
from vmipatch.files.module import ModuleFile, RewrittenModuleFile
from vmipatch.rewrite import RewriteOptions


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


def test_tree_comes_back(tree: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    assert invoke("rewrite", "--tree", tree, "-o", out).returncode == ExitCode.SUCCESS
    done = invoke("restore", "--tree", out, "-o", back, "--json", "-")
    assert done.returncode == ExitCode.SUCCESS
    assert validated(done.stdout, "tree-1")["outcomes"] == {
        "copied": 1, "restored": 2, "untouched": 1,
    }  # fmt: skip
    assert contents(back) == contents(tree)


def test_module_comes_back(tree: Path, tmp_path: Path) -> None:
    name = "kernel/packed.ko.xz"
    out, back = tmp_path / "out.ko.xz", tmp_path / "back.ko.xz"
    assert invoke("rewrite", tree / name, "-o", out).returncode == ExitCode.SUCCESS
    done = invoke("restore", out, "-o", back, "--json", "-")
    assert validated(done.stdout, "restore-1")["gives"] == "input"
    assert back.read_bytes() == (tree / name).read_bytes()


def test_packing_that_does_not_come_back_is_said(tree: Path, tmp_path: Path) -> None:
    odd = lzma.compress(module("fb 90 c3"), preset=0)
    (tree / "kernel" / "packed.ko.xz").write_bytes(odd)
    done = invoke("rewrite", "--tree", tree, "-o", tmp_path / "out")
    assert "1 do not come back to the last byte" in done.stderr
    one = invoke("rewrite", tree / "kernel" / "packed.ko.xz", "-o", tmp_path / "one.ko.xz")
    assert "as it was before it was packed" in one.stderr


def test_interrupted_run_is_taken_up_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert invoke("rewrite", "--tree", tree, "-o", whole).returncode == ExitCode.SUCCESS
    rewritten: list[str] = []
    real = ModuleFile.rewrite

    def interrupted(file: ModuleFile, options: RewriteOptions | None) -> RewrittenModuleFile:
        if len(rewritten) == 1:
            raise KeyboardInterrupt
        rewritten.append(file.name)
        return real(file, options)

    monkeypatch.setattr(ModuleFile, "rewrite", interrupted)
    assert invoke("rewrite", "--tree", tree, "-o", out, "--jobs", "1").returncode == INTERRUPTED
    assert (out / JOURNAL).exists()
    assert not [path for path in out.rglob(".vmipatch*")]
    assert all(
        contents(whole)[name] == data for name, data in contents(out).items() if ".ko" in name
    )
    (first,) = rewritten

    def counted(file: ModuleFile, options: RewriteOptions | None) -> RewrittenModuleFile:
        rewritten.append(file.name)
        return real(file, options)

    monkeypatch.setattr(ModuleFile, "rewrite", counted)
    done = invoke("rewrite", "--tree", tree, "-o", out, "--jobs", "1")
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    assert rewritten.count(first) == 1
    assert contents(out) == contents(whole)


def test_output_that_was_changed_meanwhile_is_made_anew(tree: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    for place in (whole, out):
        assert invoke("rewrite", "--tree", tree, "-o", place).returncode == ExitCode.SUCCESS
    (out / "kernel" / "site.ko").write_bytes(b"half a file")
    assert invoke("rewrite", "--tree", tree, "-o", out).returncode == ExitCode.SUCCESS
    assert contents(out) == contents(whole)
