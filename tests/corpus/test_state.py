# SPDX-License-Identifier: MIT
"""Is what is known kept, and forgotten as soon as product or kernel are others?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.corpus import state
from tests.corpus.places import CorpusKernel, tree_digest
from tests.corpus.state import CorpusStep, Result, Results, StepOutcome, Subject
from tests.corpus.table import InputMode

PRODUCT, OTHER_PRODUCT = "12" * 32, "34" * 32
RESULT = Result(StepOutcome.FAILS, "why", 1.5, 20, {"sites": {"rewritten": 3}})


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    return Subject(CorpusKernel("given/some", kernel, None), InputMode.ALONE)


def test_result_is_known_to_the_next_run(tmp_path: Path, subject: Subject) -> None:
    Results(tmp_path, PRODUCT, subject).put(CorpusStep.SCAN, RESULT)
    later = Results(tmp_path, PRODUCT, subject)
    assert later.get(CorpusStep.SCAN) == RESULT
    assert later.get(CorpusStep.PROOF) is None
    assert later.record.known == {CorpusStep.SCAN: RESULT}


def test_result_of_another_product_does_not_count(tmp_path: Path, subject: Subject) -> None:
    Results(tmp_path, PRODUCT, subject).put(CorpusStep.SCAN, RESULT)
    assert Results(tmp_path, OTHER_PRODUCT, subject).get(CorpusStep.SCAN) is None


def test_products_that_share_a_directory_are_told_apart(tmp_path: Path, subject: Subject) -> None:
    twin = PRODUCT[: state.PRODUCT_LEN].ljust(64, "0")
    Results(tmp_path, PRODUCT, subject).put(CorpusStep.SCAN, RESULT)
    assert Results(tmp_path, twin, subject).get(CorpusStep.SCAN) is None
    assert not list(state.records(tmp_path, twin, ""))


def test_result_of_another_kernel_does_not_count(tmp_path: Path, subject: Subject) -> None:
    Results(tmp_path, PRODUCT, subject).put(CorpusStep.SCAN, RESULT)
    assert subject.kernel.packed is not None
    subject.kernel.packed.write_bytes(b"another")
    changed = Subject(dataclasses.replace(subject.kernel), InputMode.ALONE)
    assert Results(tmp_path, PRODUCT, changed).get(CorpusStep.SCAN) is None


def test_records_are_found_by_the_begin_of_their_names(tmp_path: Path, subject: Subject) -> None:
    results = Results(tmp_path, PRODUCT, subject)
    results.put(CorpusStep.SCAN, RESULT)
    assert [r for r in state.records(tmp_path, PRODUCT, "given/")] == [results.record]
    assert not list(state.records(tmp_path, PRODUCT, "other"))


def test_checksum_of_a_tree_sees_names_and_contents_and_no_compiled_code(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "__pycache__").mkdir(parents=True)
    (tree / "one").write_text("1")
    before = tree_digest(tree)
    (tree / "__pycache__" / "one.pyc").write_text("1")
    assert tree_digest(tree) == before
    (tree / "one").rename(tree / "two")
    renamed = tree_digest(tree)
    (tree / "two").write_text("2")
    assert len({before, renamed, tree_digest(tree)}) == 3
