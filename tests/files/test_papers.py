# SPDX-License-Identifier: MIT
"""Are reports and certificates written for files of every kind?"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest

from tests.cli.commands import ROOT, invoke, validated
from tests.files.samples import one_of_each
from vmipatch.errors import ExitCode
from vmipatch.files.kind import ANY, Kind

COMPARED = [Kind.VMLINUX, Kind.MODULE, Kind.PACKED_MODULE, Kind.TREE]
"""The kinds that `verify` compares with an original today; a bzImage is booted."""
PAPERS = ("--json", "--certificate", "--sarif", "--report")


@pytest.fixture(scope="module")
def files(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    return one_of_each(tmp_path_factory.mktemp("kinds"), guest)


def _rewritten(source: Path, tmp_path: Path) -> Path:
    output = tmp_path / source.name
    done = invoke("rewrite", source, "-o", output)
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    return output


@pytest.mark.parametrize("kind", COMPARED, ids=lambda kind: kind.value)
def test_every_paper_of_a_proof_is_written(
    kind: Kind, files: dict[Kind, Path], tmp_path: Path
) -> None:
    output = _rewritten(files[kind], tmp_path)
    places = {paper: tmp_path / paper.strip("-") for paper in PAPERS}
    words = [str(word) for pair in places.items() for word in pair]
    done = invoke("verify", "--static", output, "--original", files[kind], *words)
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    tree = kind is Kind.TREE
    schema = "verify-2" if kind is Kind.VMLINUX else "tree-1"
    validated(places["--json"].read_text(), schema)
    name = "tree-certificate-1" if tree else "certificate-1"
    certificate = validated(places["--certificate"].read_text(), name)
    assert certificate["holds"] and certificate["not_done"]
    row = certificate["modules"][-1] if tree else certificate
    proven = output / row["path"] if tree else output
    assert row["output_sha256"] == hashlib.sha256(proven.read_bytes()).hexdigest()
    assert json.loads(places["--sarif"].read_text())["runs"][0]["results"] == []
    assert "holds: proven from its bytes, not booted" in places["--report"].read_text()
    told = {paper: place.read_text() for paper, place in places.items()}
    assert [paper for paper, text in told.items() if str(tmp_path.parent) in text] == []


@pytest.mark.parametrize("kind", [Kind.MODULE, Kind.TREE], ids=lambda kind: kind.value)
def test_findings_are_in_every_paper(kind: Kind, files: dict[Kind, Path], tmp_path: Path) -> None:
    output = _rewritten(files[kind], tmp_path)
    target = output / "kernel" / "site.ko" if kind is Kind.TREE else output
    data = bytearray(target.read_bytes())
    at = data.index(b"\x3e\x3e\x3e\x3e\xfa")
    data[at + 4] = 0xFB
    target.write_bytes(data)
    places = {paper: tmp_path / paper.strip("-") for paper in PAPERS}
    words = [str(word) for pair in places.items() for word in pair]
    done = invoke("verify", output, "--original", files[kind], *words)
    assert done.returncode == ExitCode.FINDINGS
    assert '"refuted"' in places["--json"].read_text()
    assert json.loads(places["--certificate"].read_text())["holds"] is False
    assert json.loads(places["--sarif"].read_text())["runs"][0]["results"]
    assert "VP" in places["--report"].read_text()
    told = {paper: place.read_text() for paper, place in places.items()}
    assert [paper for paper, text in told.items() if str(tmp_path.parent) in text] == []


@pytest.mark.parametrize("kind", [k for k in Kind if k in ANY], ids=lambda kind: kind.value)
def test_rewrite_reports_the_hashes_of_its_outputs(
    kind: Kind, files: dict[Kind, Path], tmp_path: Path
) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    words = ["--debug", str(files[Kind.VMLINUX])] if kind is Kind.BZIMAGE else []
    done = invoke("rewrite", files[kind], "-o", output, "--json", log, *words)
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    if kind in (Kind.VMLINUX, Kind.BZIMAGE):
        report = validated(log.read_text(), "rewrite-1")
        rows = {row["path"]: row["sha256"] for row in report["outputs"]}
        written = {output.name: output}
    else:
        report = validated(log.read_text(), "tree-1")
        rows = {row["path"]: row["output_sha256"] for row in report["files"]}
        written = {path: output / path if kind is Kind.TREE else output for path in rows}
    assert rows == {
        path: hashlib.sha256(place.read_bytes()).hexdigest() for path, place in written.items()
    }


def test_scan_counts_a_tree_as_its_modules(files: dict[Kind, Path], tmp_path: Path) -> None:
    done = invoke("scan", files[Kind.TREE], "--json", "-")
    report = validated(done.stdout, "tree-scan-1")
    for row in report["modules"]:
        alone = invoke("scan", files[Kind.TREE] / row["path"], "--json", "-")
        sites = validated(alone.stdout, "scan-2")["sites"]
        assert sum(each["count"] for each in row["sites"]) == len(sites)
    table = invoke("scan", files[Kind.TREE]).stdout.splitlines()
    counted = sum(each["count"] for row in report["modules"] for each in row["sites"])
    assert int(table[-1].split()[-1]) == counted > 0


@pytest.mark.parametrize("kind", COMPARED, ids=lambda kind: kind.value)
def test_certificate_is_the_predicate_of_a_statement(
    kind: Kind, files: dict[Kind, Path], tmp_path: Path
) -> None:
    output = _rewritten(files[kind], tmp_path)
    plain, attested = tmp_path / "plain", tmp_path / "attested"
    for place, form in ((plain, "json"), (attested, "in-toto")):
        done = invoke(
            "verify", "--static", output, "--original", files[kind], "--certificate", place,
            "--certificate-format", form,
        )  # fmt: skip
        assert done.returncode == ExitCode.SUCCESS, done.stderr
    rules = json.loads((ROOT / "docs" / "schemas" / "in-toto-statement-1.json").read_text())
    found = json.loads(attested.read_text())
    jsonschema.Draft202012Validator(rules).validate(found)
    name = "tree-certificate-1" if kind is Kind.TREE else "certificate-1"
    certificate = validated(json.dumps(found["predicate"]), name)
    assert certificate == json.loads(plain.read_text())
    assert found["predicateType"] == f"urn:vmipatch:{name.replace('-1', ':1')}"
    shipped = {s["name"]: s["digest"]["sha256"] for s in found["subject"]}
    root = output if kind is Kind.TREE else output.parent
    assert shipped == {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in shipped
    }
    if kind is Kind.TREE:
        assert set(shipped) == {row["path"] for row in certificate["modules"]}
    assert set(certificate["tool"]["decoders"]) == {"capstone", "iced-x86"}
    assert certificate["tool"]["emulator"]["unicorn"] == version("unicorn")


def test_form_of_a_certificate_that_is_not_written_is_refused(files: dict[Kind, Path]) -> None:
    done = invoke("verify", files[Kind.VMLINUX], "--certificate-format", "in-toto")
    assert done.returncode == ExitCode.USAGE
    assert "--certificate writes" in done.stderr
