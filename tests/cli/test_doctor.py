# SPDX-License-Identifier: MIT
"""Does `vmipatch doctor` say before what `scan` and `rewrite` do then? And nothing private?"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cli.commands import ROOT, Done, invoke, validated
from tests.files.samples import module, one_of_each
from tests.rewrite.smallkernel import SmallKernel, with_strange_table
from vmipatch.errors import ExitCode
from vmipatch.files.kind import Kind
from vmipatch.image.module import SIGNATURE_END

SECRETS = ("secret_probe", "joe", "bighost", "private-place", "cmdline-of-joe")
"""A symbol, builder, host, directory and text of the kernel of `_private`."""


def _doctor(path: Path, *arguments: str | Path) -> tuple[Done, dict[str, Any]]:
    done = invoke("doctor", path, *arguments, "--json", "-")
    return done, validated(done.stdout, "doctor-1")


def _private(directory: Path, *, refused: bool = False) -> Path:
    """A kernel with names, texts and a place that a user may not want to show."""
    kernel = SmallKernel()
    kernel.text.function("secret_probe", "fa", "0f 04" if refused else "90", "c3")
    kernel.text.function("start_kernel", "c3")
    data = kernel.rodata()
    kernel.labels["linux_banner"] = (data.end_va, 1, 0)
    data.put(b"Linux version 6.1.9-x (joe@bighost) (gcc) #1\0", b"cmdline-of-joe\0")
    place = directory / "private-place"
    place.mkdir()
    (place / "vmlinux-of-joe").write_bytes(kernel.build())
    return place / "vmlinux-of-joe"


def _members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as found:
        files = ((member, found.extractfile(member)) for member in found.getmembers())
        return {member.name: file.read() for member, file in files if file is not None}


def test_it_says_what_scan_and_rewrite_then_say(guest: Path, tmp_path: Path) -> None:
    done, report = _doctor(guest)
    assert done.returncode == ExitCode.SUCCESS
    scanned = validated(invoke("scan", guest, "--json", "-").stdout, "scan-2")
    counts = Counter(site["disposition"] for site in scanned["sites"])
    assert Counter(report["dispositions"]) == counts
    rewritten = invoke("rewrite", guest, "-o", tmp_path / "out")
    (line,) = rewritten.stderr.splitlines()
    shown = invoke("doctor", guest).stdout.splitlines()
    assert "rewrite      " + line.split(": ", 1)[1] in shown
    assert f"sites        {sum(counts.values())}: {counts['rewritten']} rewritten" in "\n".join(
        shown
    )
    assert (report["outcome"], report["lost"], report["refusal"]) == ("rewritten", [], None)


@pytest.mark.parametrize("kind", [Kind.BZIMAGE, Kind.MODULE, Kind.PACKED_MODULE])
def test_each_kind_of_file_has_a_diagnosis(kind: Kind, guest: Path, tmp_path: Path) -> None:
    files = one_of_each(tmp_path, guest)
    debug: list[str | Path] = ["--debug", files[Kind.VMLINUX]] if kind is Kind.BZIMAGE else []
    done, report = _doctor(files[kind], *debug)
    assert (done.returncode, report["kind"]) == (ExitCode.SUCCESS, kind.value)
    assert report["outcome"] == "rewritten"
    assert report["dispositions"]["rewritten"] > 0
    assert (report["boot"] is not None) == (kind is Kind.BZIMAGE)
    losses = invoke("rewrite", files[kind], *debug, "-o", tmp_path / "out").stderr
    told = re.findall(r": lost: (.*)", losses)
    assert [each for each in report["lost"] if not each.startswith("the whole way")] == told


def test_module_without_sites_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "plain.ko"
    path.write_bytes(module("c3"))
    assert _doctor(path)[1]["outcome"] == "unchanged"


def test_signature_of_a_module_is_lost(tmp_path: Path) -> None:
    path, body = tmp_path / "signed.ko", b"not a PKCS#7 message"
    trailer = bytes(8) + len(body).to_bytes(4, "big") + SIGNATURE_END
    path.write_bytes(module() + body + trailer)
    length = len(body + trailer)
    report = _doctor(path)[1]
    assert report["signature"] == {"length": length, "signer": ""}
    assert report["lost"] == [f"signature of {length} bytes"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:18] + b"\x3e\0" + data[20:],  # EM_X86_64
        lambda data: data[: len(data) // 2],
        lambda data: b"text, and no kernel",
    ],
    ids=["another processor", "cut off", "not a kernel"],
)
def test_refusal_and_exit_code_are_those_of_rewrite(
    spoil: Any, guest: Path, tmp_path: Path
) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(spoil(guest.read_bytes()))
    refused = invoke("rewrite", path, "-o", tmp_path / "out")
    assert refused.returncode == ExitCode.INPUT
    done = invoke("doctor", path)
    assert done.returncode == refused.returncode
    message = refused.stderr.split(": ", 3)[-1].rsplit(" (", 1)[0].strip()
    assert message in done.stdout + done.stderr


def test_kernel_that_is_rewritten_already_is_refused(guest: Path, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux.vmi"
    assert invoke("rewrite", guest, "-o", path).returncode == ExitCode.SUCCESS
    again = invoke("rewrite", path, "-o", tmp_path / "out")
    done, report = _doctor(path)
    assert (done.returncode, report["outcome"]) == (again.returncode, "refused")
    assert report["refusal"]["message"] in again.stderr
    shown = invoke("doctor", path).stdout
    assert f"refused      {report['refusal']['place']}: {report['refusal']['message']}" in shown
    assert f"what to do   {report['refusal']['hint']}" in shown


def test_table_that_is_not_understood_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(with_strange_table().build())
    done, report = _doctor(path)
    (reason,) = report["tables_not_understood"]
    assert (done.returncode, report["refusal"]["exit_code"]) == (ExitCode.INPUT, ExitCode.INPUT)
    assert reason == f"{report['refusal']['place']}: {report['refusal']['message']}"
    assert f"not understood  {reason}" in invoke("doctor", path).stdout


def test_missing_file_ends_as_with_every_command(tmp_path: Path) -> None:
    done = invoke("doctor", tmp_path / "none")
    assert done.returncode == ExitCode.ENVIRONMENT


def test_nothing_is_written_but_what_is_asked_for(guest: Path, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(guest.read_bytes())
    assert invoke("doctor", kernel).returncode == ExitCode.SUCCESS
    assert [path.name for path in tmp_path.iterdir()] == ["vmlinux"]


@pytest.mark.parametrize("refused", [False, True], ids=["rewritten", "refused"])
def test_bundle_holds_nothing_private(tmp_path: Path, refused: bool) -> None:
    path, out = _private(tmp_path, refused=refused), tmp_path / "b.tar.gz"
    done = invoke("doctor", path, "--bundle", out)
    assert done.returncode == (ExitCode.INPUT if refused else ExitCode.SUCCESS), done.stdout
    assert not refused or "secret_probe" in done.stdout, "the screen names it, the bundle must not"
    members = _members(out.read_bytes())
    content = b"".join(members.values()).decode()
    assert [secret for secret in SECRETS if secret in content] == []
    assert str(tmp_path) not in content
    hidden = [name for name in SECRETS if name.encode().hex() in content]
    assert hidden == [], "as hexadecimal neither"


def test_bundle_has_what_a_report_needs(tmp_path: Path) -> None:
    path, out = _private(tmp_path, refused=True), tmp_path / "b.tar.gz"
    invoke("doctor", path, "--bundle", out)
    members = {name.split("/")[1]: data for name, data in _members(out.read_bytes()).items()}
    assert set(members) == {
        "README.txt", "doctor.json", "headers.json", "sites.json", "versions.json"
    }  # fmt: skip
    parts = {name: json.loads(data) for name, data in members.items() if name.endswith(".json")}
    rules = json.loads((ROOT / "docs" / "schemas" / "doctor-1.json").read_text())
    jsonschema.Draft202012Validator(rules).validate(parts["doctor.json"])
    assert parts["doctor.json"]["release"] == "6.1.9-x"
    assert parts["doctor.json"]["refusal"]["error"]
    sections = {section["name"] for section in parts["headers.json"]["elf"]["sections"]}
    assert {".text", ".rodata"} <= sections
    assert "fa" in {site["bytes"] for site in parts["sites.json"]}
    assert parts["versions.json"]["libraries"]["numpy"]


def test_names_of_symbols_are_packed_on_request(tmp_path: Path) -> None:
    path, out = _private(tmp_path), tmp_path / "b.tar.gz"
    assert invoke("doctor", path, "--bundle", out, "--names").returncode == ExitCode.SUCCESS
    symbols = json.loads(_members(out.read_bytes())["vmipatch-bundle/symbols.json"])
    assert "secret_probe" in {symbol["name"] for symbol in symbols}
    refused = invoke("doctor", path, "--names")
    assert refused.returncode == ExitCode.USAGE


def test_bundle_is_the_same_on_every_run_and_at_every_place(tmp_path: Path) -> None:
    path = _private(tmp_path)
    other = tmp_path / "copy"
    other.write_bytes(path.read_bytes())
    made = [tmp_path / name for name in ("a", "b")]
    for kernel, out in zip((path, other), made, strict=True):
        assert invoke("doctor", kernel, "--bundle", out).returncode == ExitCode.SUCCESS
    assert made[0].read_bytes() == made[1].read_bytes()
