# SPDX-License-Identifier: MIT
"""Does `import vmipatch` do what the commands do, on whatever runs its tasks?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import vmipatch
from tests.cli.commands import ENVIRONMENT, invoke
from tests.files.samples import contents, make_tree, module, one_of_each
from tests.restore.test_round_trip import kernel_with_debug
from vmipatch.errors import EnvironmentProblem, InputNotUnderstood, NotServed
from vmipatch.files.kind import Kind

HEAVY = ("numpy", "lief", "capstone", "iced_x86", "keystone", "unicorn", "multiprocessing")


@contextmanager
def _threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@contextmanager
def _processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@contextmanager
def _dask() -> Iterator[Executor]:
    """A cluster of dask.distributed on this machine."""
    from distributed import Client

    with Client(  # type: ignore[no-untyped-call]
        n_workers=2, threads_per_worker=1, dashboard_address=None, set_as_default=False
    ) as client:
        yield client.get_executor()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = make_tree(tmp_path / "tree")
    for index in range(8):
        (root / f"m{index}.ko").write_bytes(module("fa " * (index + 1) + "c3"))
    return root


@pytest.mark.filterwarnings("default")  # of the cluster's own start and end
@pytest.mark.parametrize("executor", [_threads, _processes, _dask])
def test_any_executor_gives_the_bytes_of_the_command(
    executor: Callable[[], Iterator[Executor]], tree: Path, tmp_path: Path
) -> None:
    expected, out, back = tmp_path / "expected", tmp_path / "out", tmp_path / "back"
    assert invoke("rewrite", tree, "-o", expected).returncode == 0
    opened = vmipatch.open(tree)
    assert isinstance(opened, vmipatch.ModuleTree)
    with executor() as pool:  # type: ignore[attr-defined]
        done = opened.rewrite(out, executor=pool)
        made = vmipatch.open(out)
        assert isinstance(made, vmipatch.ModuleTree)
        verdict = made.verify(opened, executor=pool)
        made.restore(back, executor=pool)
        counted = opened.scan(executor=pool)
    assert contents(out) == contents(expected)
    assert contents(back) == contents(tree)
    assert verdict.holds and len(verdict.entries) == len(counted.modules) == 11
    assert sum(entry.sites for entry in done.entries) == sum(e.sites for e in verdict.entries)


def test_file_of_each_kind_is_known_by_its_bytes(guest: Path, tmp_path: Path) -> None:
    for kind, path in one_of_each(tmp_path, guest).items():
        opened = vmipatch.open(path)
        assert opened.kind is kind
        assert len(opened.sha256) == 64
        if kind is not Kind.TREE:
            data = path.read_bytes()
            assert vmipatch.open(data).kind is kind
            assert vmipatch.open(data, name="a name").sha256 == opened.sha256


def test_hash_of_a_tree_is_that_of_its_list(tree: Path, tmp_path: Path) -> None:
    before = vmipatch.open(tree).sha256
    (tree / "modules.dep").write_text("made anew by depmod")
    assert vmipatch.open(tree).sha256 == before
    (tree / "m0.ko").write_bytes(module("c3"))
    assert vmipatch.open(tree).sha256 != before


def test_scripts_do_what_commands_do(guest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert invoke("rewrite", guest, "-o", out).returncode == 0
    kernel = vmipatch.open(guest)
    assert isinstance(kernel, vmipatch.KernelFile)
    done = kernel.rewrite()
    assert done.data == out.read_bytes()
    made = vmipatch.open(done.data, name="vmlinux.vmi")
    assert isinstance(made, vmipatch.KernelFile)
    assert made.sha256 == done.sha256
    assert made.restore().data == guest.read_bytes()
    verdict = made.verify(kernel, vmipatch.VerifyOptions(vmipatch.Extent.STATIC))
    assert verdict.holds and verdict.certificate()["input_sha256"] == kernel.sha256
    run = made.run(vmipatch.Mode.AUDIT, options=vmipatch.MachineOptions(limit_ns=10_000_000))
    assert run.mode is vmipatch.Mode.AUDIT and run.console is not None


def test_debug_information_let_go_of_changes_nothing_but_restore() -> None:
    data = kernel_with_debug().data
    whole, less = (vmipatch.open(data, name="k", keep_debug=keep) for keep in (True, False))
    assert isinstance(whole, vmipatch.KernelFile) and isinstance(less, vmipatch.KernelFile)
    assert whole.sha256 == less.sha256 and len(less.data) < len(whole.data) - 4000
    assert whole.rewrite().data == less.rewrite().data
    with pytest.raises(NotServed, match="without debug information"):
        less.rewrite(vmipatch.RewriteOptions(keep_original=True))


def test_jobs_that_a_kind_does_not_have_are_refused(guest: Path, tmp_path: Path) -> None:
    files = one_of_each(tmp_path, guest)
    for kind in (Kind.MODULE, Kind.TREE):
        opened = vmipatch.open(files[kind])
        assert not isinstance(opened, vmipatch.KernelFile)
        with pytest.raises(NotServed, match="does not boot"):
            opened.run(vmipatch.Mode.NATIVE)
    kernel, packed = vmipatch.open(guest), vmipatch.open(files[Kind.BZIMAGE])
    assert isinstance(kernel, vmipatch.KernelFile) and isinstance(packed, vmipatch.KernelFile)
    with pytest.raises(NotServed, match="has no debug twin"):
        kernel.rewrite(debug=kernel)
    with pytest.raises(NotServed, match="is not a debug twin"):
        packed.rewrite(debug=packed)
    with pytest.raises(NotServed, match="vmlinux is not made from a module"):
        kernel.verify(vmipatch.open(files[Kind.MODULE]))  # type: ignore[arg-type]


def test_vmlinux_that_is_packed_as_a_whole_is_read_and_not_written(
    guest: Path, tmp_path: Path
) -> None:
    import gzip

    packed = tmp_path / "vmlinux.gz"
    packed.write_bytes(gzip.compress(guest.read_bytes()))
    opened = vmipatch.open(packed)
    assert isinstance(opened, vmipatch.KernelFile) and opened.kind is Kind.VMLINUX
    plain = vmipatch.open(guest)
    assert len(opened.scan().sites) == len(plain.scan().sites)  # type: ignore[union-attr]
    with pytest.raises(InputNotUnderstood, match="packed by gzip"):
        opened.rewrite()


def test_import_is_lazy_and_complete() -> None:
    check = (
        "import sys, vmipatch; assert set(dir(vmipatch)) >= set(vmipatch.__all__); "
        f"print([m for m in {HEAVY} if m in sys.modules]); "
        "[getattr(vmipatch, name) for name in vmipatch.__all__]"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'none'"):
        vmipatch.none  # noqa: B018


def test_public_names_are_documented() -> None:
    for name in set(vmipatch.__all__) - {"__version__"}:
        value = getattr(vmipatch, name)
        assert value.__doc__, name
        for member, attribute in vars(value).items() if isinstance(value, type) else ():
            if not member.startswith("_") and callable(attribute):
                assert attribute.__doc__, f"{name}.{member}"


@pytest.mark.parametrize("words", [["--help"], ["rewrite", "--help"], ["verify", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    check = (
        "import sys; from vmipatch.cli.main import run; run(sys.argv[1:]); "
        f"sys.stderr.write(str([m for m in {HEAVY} if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check, *words],
        capture_output=True, text=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.stderr == "[]"
    assert "..." not in done.stdout.replace("[ARGS]...", ""), "no help is cut"


def test_completion_loads_nothing_heavy() -> None:
    check = (
        "import sys, atexit; atexit.register(lambda: sys.stderr.write(str("
        f"[m for m in {HEAVY} if m in sys.modules]))); from vmipatch.cli.main import main; main()"
    )
    environment = ENVIRONMENT | {
        "_VMIPATCH_COMPLETE": "bash_complete",
        "COMP_WORDS": "vmipatch verify --s",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stderr == "[]"
    assert "plain,--static" in done.stdout


def test_module_runs_as_the_script_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vmipatch", "--version"],
        capture_output=True, text=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.stdout == f"vmipatch, version {vmipatch.__version__}\n"


def test_census_of_the_example_counts_every_site(guest: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.census", str(guest)],
        capture_output=True, text=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    from examples.census import census

    opened = vmipatch.open(guest)
    assert isinstance(opened, vmipatch.KernelFile)
    assert census(str(guest)).total() == len(opened.scan().sites)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows == [[str(n), name] for name, n in census(str(guest)).most_common(20)]


class _Refusing(ThreadPoolExecutor):
    """Takes two tasks, and no more."""

    left = 2

    def submit(self, *arguments: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("cannot schedule new futures")
        return super().submit(*arguments, **options)


def test_executor_that_fails_is_named(tree: Path, tmp_path: Path) -> None:
    opened = vmipatch.open(tree)
    assert isinstance(opened, vmipatch.ModuleTree)
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    for executor in (closed, _Refusing(1)):
        with pytest.raises(EnvironmentProblem, match="cannot schedule"):
            opened.rewrite(tmp_path / "out", executor=executor)
    refused: list[dict[str, Any]] = [{"jobs": 0}, {"jobs": -1}, {"jobs": 2, "executor": closed}]
    for options in refused:
        with pytest.raises(NotServed):
            opened.scan(**options)


def test_bytes_of_any_type_and_paths_are_taken(guest: Path) -> None:
    data = guest.read_bytes()
    digests = {vmipatch.open(each).sha256 for each in (data, bytearray(data), memoryview(data))}
    assert digests == {vmipatch.open(str(guest)).sha256}
    with pytest.raises(TypeError, match="not int"):
        vmipatch.open(3)  # type: ignore[arg-type]
