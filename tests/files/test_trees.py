# SPDX-License-Identifier: MIT
"""Do trees as the world has them become others, and stay inside of themselves?"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

import vmipatch
from tests.cli.commands import COMMAND, ENVIRONMENT, invoke, validated
from tests.files.samples import contents, make_tree, module
from vmipatch.errors import ExitCode
from vmipatch.files import nodes
from vmipatch.files.journal import JOURNAL, Journal
from vmipatch.files.nodes import NodeKind
from vmipatch.files.outputs import TEMPORARY
from vmipatch.rewrite import RewriteOptions

PATIENCE_S = 300
"""For a host so busy that a process needs minutes to start."""
LONG_AGO_NS = 1_000_000_007_000_000_009


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


def _there_and_back(tree: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The tree rewritten, proven and restored."""
    out, back = tmp_path / "out", tmp_path / "back"
    for words in (
        ("rewrite", tree, "-o", out),
        ("verify", out, "--original", tree),
        ("restore", out, "-o", back),
    ):
        done = invoke(*words)
        assert done.returncode == ExitCode.SUCCESS, done.stderr
    return out, back


def test_links_are_copied_wherever_they_point(tree: Path, tmp_path: Path) -> None:
    """`build` of every modules_install dangles; weak-updates hold links named as modules."""
    links = {
        "build": "/usr/src/no-such-tree", "weak.ko": "kernel/site.ko", "gone.ko": "../gone.ko",
        "dir": "kernel", "loop": "loop",
    }  # fmt: skip
    for name, goal in links.items():
        (tree / name).symlink_to(goal)
    for made in _there_and_back(tree, tmp_path):
        assert {name: os.readlink(made / name) for name in links} == links


@pytest.mark.parametrize("named", ["pipe", "pipe.ko"])
def test_pipes_and_devices_are_made_anew_and_never_opened(
    named: str, tree: Path, tmp_path: Path
) -> None:
    os.mkfifo(tree / named)
    devices = os.geteuid() == 0
    if devices:
        os.mknod(tree / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    for made in _there_and_back(tree, tmp_path):
        assert stat.S_ISFIFO(os.lstat(made / named).st_mode)
        if devices:
            status = os.lstat(made / "zero")
            assert stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 5)


def test_times_and_modes_are_those_of_the_input(tree: Path, tmp_path: Path) -> None:
    (tree / "empty").mkdir(mode=0o750)
    (tree / "link").symlink_to("kernel")
    os.chmod(tree / "kernel" / "site.ko", 0o640)
    for path in (*tree.rglob("*"),):
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS), follow_symlinks=False)
    for made in _there_and_back(tree, tmp_path):
        for path in tree.rglob("*"):
            was, now = os.lstat(path), os.lstat(made / path.relative_to(tree))
            assert (now.st_mode, now.st_mtime_ns) == (was.st_mode, LONG_AGO_NS), path


def test_names_that_are_not_text_are_kept_and_shown(tree: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\x1b[31m.ko")
    (tree / name).write_bytes(module())
    bad = os.fsdecode(b"b\xe4d.ko")
    out, page = tmp_path / "out", tmp_path / "page"
    assert invoke("rewrite", tree, "-o", out, "--json", tmp_path / "log").returncode == 0
    (out / bad).write_bytes(b"")
    done = invoke("verify", out, "--original", tree, "--report", page, "--json", tmp_path / "log2")
    assert done.returncode == ExitCode.FINDINGS
    assert r"b\udce4d.ko: it has no original" in done.stderr
    assert "\x1b" not in done.stderr + page.read_text()
    report = validated((tmp_path / "log").read_text(), "tree-1")
    assert name in [row["path"] for row in report["files"]]
    assert (out / name).read_bytes() != (tree / name).read_bytes()


@pytest.mark.parametrize("where", ["kernel", "kernel/site.ko", JOURNAL])
def test_links_of_the_output_tree_carry_nothing_out_of_it(
    where: str, tree: Path, tmp_path: Path
) -> None:
    out, far = tmp_path / "out", tmp_path / "far"
    (out / where).parent.mkdir(parents=True)
    far.mkdir()
    victim = far / "victim"
    victim.write_bytes(b"not ours")
    (out / where).symlink_to(far if where == "kernel" else victim)
    done = invoke("rewrite", tree, "-o", out)
    if where == "kernel/site.ko":
        assert done.returncode == ExitCode.SUCCESS, done.stderr
        assert not (out / where).is_symlink(), "the link is replaced"
    else:
        assert done.returncode == ExitCode.ENVIRONMENT
        assert str(out / where) in done.stderr
    assert victim.read_bytes() == b"not ours"
    assert list(far.iterdir()) == [victim]


def test_module_that_became_a_link_or_is_missing_is_refuted(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert invoke("rewrite", tree, "-o", out).returncode == ExitCode.SUCCESS
    (out / "kernel" / "site.ko").unlink()
    (out / "kernel" / "site.ko").symlink_to("plain.ko")
    (out / "kernel" / "plain.ko").rename(out / "kernel" / "more.ko")
    done = invoke("verify", out, "--original", tree)
    assert done.returncode == ExitCode.FINDINGS
    assert "kernel/site.ko: it is a symbolic link, in the original a module" in done.stderr
    assert "kernel/plain.ko: it is missing" in done.stderr
    assert "kernel/more.ko: it has no original" in done.stderr


def test_link_that_points_elsewhere_is_refuted(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tree / "weak.ko").symlink_to("kernel/site.ko")
    assert invoke("rewrite", tree, "-o", out).returncode == ExitCode.SUCCESS
    (out / "weak.ko").unlink()
    (out / "weak.ko").symlink_to("kernel/plain.ko")
    done = invoke("verify", out, "--original", tree)
    assert done.returncode == ExitCode.FINDINGS
    assert "points to kernel/plain.ko, that of the original to kernel/site.ko" in done.stderr


def test_file_that_is_not_a_module_is_named(tree: Path, tmp_path: Path) -> None:
    (tree / "vmlinux.ko").write_bytes(b"HdrS".rjust(0x206) + bytes(0x1000))
    done = invoke("rewrite", tree, "-o", tmp_path / "out")
    assert done.returncode == ExitCode.INPUT
    assert "vmlinux.ko: a bzImage stands where a module should be" in done.stderr


def test_report_does_not_take_the_place_of_a_file(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    done = invoke("rewrite", tree, "-o", out, "--json", out / "modules.order")
    assert done.returncode == ExitCode.USAGE
    assert not (out / "modules.order").exists()


def test_nested_journal_is_no_obstacle(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / JOURNAL).write_text("[" * 100_000 + "\n" + '{"a":' * 100_000)
    done = invoke("rewrite", tree, "-o", out)
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    assert not (out / JOURNAL).exists()


def _workers(parent: int) -> set[int]:
    """Processes whose parent is `parent`, by /proc."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(status[1]) == parent and status[0] != "Z":
                found.add(int(entry.name))
    return found


def _until(condition: object) -> None:
    deadline = time.monotonic() + PATIENCE_S
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for index in range(200):
        (tree / f"m{index}.ko").write_bytes(module("fa " * 400 + "c3"))
    out = tmp_path / "out"
    with subprocess.Popen(
        [*COMMAND, "rewrite", str(tree), "-o", str(out), "--jobs", "2"],
        stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        _until(lambda: out.exists() and any(out.glob("*.ko")))
        workers = _workers(process.pid)
        assert workers
        process.send_signal(number)
        _, talk = process.communicate(timeout=PATIENCE_S)
    _until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    if number is signal.SIGTERM:
        assert process.returncode == 128 + number
        assert talk.strip().splitlines()[-1] == "vmipatch: terminated"
        assert not [path for path in out.iterdir() if path.name.startswith(".vmipatch.")]
    assert invoke("rewrite", tree, "-o", out).returncode == ExitCode.SUCCESS
    assert contents(out).keys() == contents(tree).keys()


def test_directory_that_cannot_be_entered_is_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that may be listed and not entered; root enters every one, so it is refused here."""
    real = nodes.kind_of

    def refused(name: str, mode: int) -> NodeKind:
        if name == "site.ko":
            raise PermissionError(13, "Permission denied")
        return real(name, mode)

    monkeypatch.setattr(nodes, "kind_of", refused)
    done = invoke("scan", tree)
    assert done.returncode == ExitCode.ENVIRONMENT
    assert "kernel: cannot be read: Permission denied" in done.stderr


@pytest.mark.parametrize("what", ["hard link", "pipe"])
def test_journal_is_a_file_of_its_own(what: str, tree: Path, tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_bytes(b"not ours")
    if what == "pipe":
        os.mkfifo(out / JOURNAL)
    else:
        (out / JOURNAL).hardlink_to(victim)
    done = invoke("rewrite", tree, "-o", out)
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    assert victim.read_bytes() == b"not ours"
    assert not (out / JOURNAL).exists()


@pytest.mark.parametrize("line", ['{"path": ["x"]}', "null", '{"path": "kernel/site.ko"}'])
def test_journal_of_another_makes_no_difference(line: str, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    Journal(str(out), f"rewrite {RewriteOptions()}").close()
    with (out / JOURNAL).open("a") as journal:
        journal.write(line + "\n")
    done = invoke("rewrite", tree, "-o", out)
    assert done.returncode == ExitCode.SUCCESS, done.stderr


def test_unfinished_files_of_a_killed_run_are_taken_away(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "kernel").mkdir(parents=True)
    left = out / "kernel" / (TEMPORARY + "0123456789abcdef")
    left.write_bytes(b"half")
    (out / "kernel" / ".vmipatch.config").write_bytes(b"of the user")
    assert invoke("rewrite", tree, "-o", out).returncode == ExitCode.SUCCESS
    assert not left.exists()
    assert (out / "kernel" / ".vmipatch.config").read_bytes() == b"of the user"


def test_system_that_refuses_is_not_called_input(tree: Path, tmp_path: Path) -> None:
    """A directory where a module should go."""
    out = tmp_path / "out"
    (out / "kernel" / "site.ko").mkdir(parents=True)
    done = invoke("rewrite", tree, "-o", out, "-q")
    assert done.returncode == ExitCode.ENVIRONMENT
    assert "site.ko" in done.stderr, "errors are told even with -q"


def test_tree_of_nothing_is_not_proven(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = invoke("verify", empty, "--original", empty)
    assert done.returncode == ExitCode.INPUT
    assert "nothing is proven" in done.stderr


@pytest.mark.parametrize("command", ["rewrite", "restore"])
def test_tree_does_not_go_to_standard_output(
    command: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(command, tree, "-o", "-").returncode == ExitCode.USAGE
    assert not (tmp_path / "-").exists()


def test_tree_means_the_same_in_another_directory(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    opened = vmipatch.open("tree")
    assert isinstance(opened, vmipatch.ModuleTree)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert opened.rewrite("../out").entries
    assert contents(tmp_path / "out").keys() == contents(tree).keys()
