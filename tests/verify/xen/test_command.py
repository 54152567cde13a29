# SPDX-License-Identifier: MIT
"""What does `verify --xen` ask for before anything is started?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import invoke
from vmipatch.errors import ExitCode
from vmipatch.verify.xen import machine


def test_own_workload_is_what_runs_on_xen(guest: Path) -> None:
    done = invoke("verify", guest, "--xen", guest, "--initrd", guest)
    assert done.returncode == ExitCode.USAGE
    assert "leave --initrd out" in done.stderr


def test_packed_hypervisor_is_refused(
    guest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "EMULATOR", "sh")
    packed = tmp_path / "xen.gz"
    packed.write_bytes(b"\x1f\x8b\x08")
    done = invoke("verify", guest, "--xen", packed)
    assert done.returncode == ExitCode.INPUT
    assert "give the file xen of Xen's build" in done.stderr


def test_emulator_that_is_missing_is_named(guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "EMULATOR", "qemu-system-none")
    done = invoke("verify", guest, "--xen", guest)
    assert done.returncode == ExitCode.ENVIRONMENT
    assert "qemu-system-none" in done.stderr
    assert "leave --xen out" in done.stderr
