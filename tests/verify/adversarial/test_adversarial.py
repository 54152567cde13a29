# SPDX-License-Identifier: MIT
"""A sample of the campaign of deliberate changes, and its published counts.

VMIPATCH_SEED gives another seed; `new` draws one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.draws import drawn_seed
from tests.verify.adversarial import campaign, of_bzimage
from tests.verify.adversarial.campaign import Vmlinux, Vmlinuz, outcome_of
from tests.verify.adversarial.free import FREE
from tests.verify.adversarial.kinds import OF_ELF
from tests.verify.adversarial.outcome import (
    ACCEPTED,
    FAILED,
    FREE_BY_TABLE,
    REFUSED,
    ChangeOutcome,
    read,
)
from tests.verify.adversarial.page import BEGIN, END, write_page
from tests.verify.bzimage.samples import make_sample
from tests.verify.campaign import PAGE
from tests.verify.pair import build_original
from vmipatch.errors import VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.verify.static import check_static

LEAST = {"tiny": 1400, "smp-pae": 380, "debian-686": 95, "tiny/bzImage": 95}
"""Changes of the published campaign at least. `make mutants` plans 1,500, 400 and, of
each bzImage, 100; some of them find nothing that they could change."""
SAMPLE, SAMPLE_OF_BZIMAGE = 300, 60


@pytest.fixture(scope="module")
def seed() -> int:
    return drawn_seed()


@pytest.fixture
def kernel() -> Iterator[Vmlinux]:
    victim = Vmlinux("small", build_original())
    yield victim
    victim.close()


@pytest.fixture
def vmlinuz(tmp_path: Path) -> Iterator[Vmlinuz]:
    sample = make_sample(tmp_path / "sample")
    victim = Vmlinuz("small bzImage", sample.original, sample.twin)
    yield victim
    victim.close()


def strange(outcomes: list[ChangeOutcome]) -> list[ChangeOutcome]:
    """Those that are neither refused nor free by the table."""
    return [o for o in outcomes if o.result not in (REFUSED, FREE_BY_TABLE)]


def test_changes_of_every_kind_are_refused(kernel: Vmlinux, seed: int) -> None:
    done = [outcome_of(kernel, one, seed) for one in kernel.planned(seed, SAMPLE)]
    outcomes = [outcome for outcome in done if outcome is not None]
    assert strange(outcomes) == []
    assert len({outcome.kind for outcome in outcomes}) > 0.8 * len(OF_ELF)


def test_changes_of_a_bzimage_are_refused(vmlinuz: Vmlinuz, seed: int) -> None:
    done = [outcome_of(vmlinuz, one, seed) for one in vmlinuz.planned(seed, SAMPLE_OF_BZIMAGE)]
    outcomes = [outcome for outcome in done if outcome is not None]
    assert strange(outcomes) == []
    assert len({outcome.kind for outcome in outcomes}) > 6


def test_early_end_of_a_proof_says_what_the_whole_proof_says(seed: int) -> None:
    original = build_original()
    victim = Vmlinux("small", original)
    judged: list[tuple[bytes, ChangeOutcome]] = []
    for one in victim.planned(seed, 60)[:30]:
        outcome = outcome_of(victim, one, seed)
        if outcome is not None and outcome.by.startswith("VP"):
            judged.append((victim.changed(one, seed)[0], outcome))
    victim.close()
    assert judged
    for data, outcome in judged:
        assert holds(original, data) == (outcome.result != REFUSED), outcome


def holds(original: ElfImage, data: bytes) -> bool:
    """The verdict of the whole proof: a later rule may be unable to read what was refused."""
    try:
        image = ElfImage.parse(data)
        return check_static(original, image, original_sha256=original.file_sha256).holds
    except VmipatchError:
        return False


def test_closed_table_cites_its_sources() -> None:
    for row in FREE:
        assert "System V ABI" in row.source
        assert "Linux" in row.source


def test_published_campaign_is_complete_and_refused_all() -> None:
    text = PAGE.read_text()
    text = text[text.index(BEGIN) : text.index(END)]
    found = re.search(
        r"(\d+) changes, (\d+) refused, (\d+) free by the table, (\d+) accepted, (\d+) failed", text
    )
    assert found
    total, refused, free, accepted, failed = map(int, found.groups())
    assert (accepted, failed) == (0, 0)
    assert total == refused + free
    (head,) = [line for line in text.splitlines() if line.startswith("| kind of change |")]
    (every,) = [line for line in text.splitlines() if line.startswith("| all |")]
    files = re.findall(r"(\S+): refused", head)
    numbers = [int(cell) for cell in re.findall(r"\d+", every)]
    counts = dict(zip(files, numbers[1::2], strict=True))
    assert {name: counts.get(name, 0) >= least for name, least in LEAST.items()} == dict.fromkeys(
        LEAST, True
    )
    assert sum(counts.values()) == total
    assert sum(numbers[::2]) == refused
    kinds = set(re.findall(r"^\| ([^|]+?) \| \d", text, re.MULTILINE)) - {"all"}
    assert {*OF_ELF, *of_bzimage.OF_BZIMAGE} <= kinds
    met = dict(re.findall(r"^\| ([^|]+?) \| [^|]+ \| (\d+) \| ", text, re.MULTILINE))
    assert sum(int(met[row.what]) for row in FREE) == free


def test_campaign_goes_on_where_it_was_stopped(
    tmp_path: Path, kernel: Vmlinux, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "victim", lambda _: kernel)
    monkeypatch.setattr(kernel, "close", lambda: None)
    state, count = tmp_path / "state", len(kernel.planned(1, 5))
    stopped = campaign.campaign("small", 1, 5, state)
    done = [next(stopped), next(stopped)]
    stopped.close()
    rest = list(campaign.campaign("small", 1, 5, state))
    assert read(state) == [*done, *rest]
    assert len({outcome.key for outcome in read(state)}) == len(read(state)) <= count
    again = campaign.campaign("small", 1, 5, state)
    assert next(again, None) is None


def test_page_keeps_all_else(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_text("# Before\n")
    for result in (REFUSED, ACCEPTED, FAILED):
        write_page(page, [ChangeOutcome("f", 1, next(iter(OF_ELF)), [], 0, "", result, "VP100")])
    text = page.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.startswith("# Before\n")
    assert "1 changes, 0 refused, 0 free by the table, 0 accepted, 1 failed" in text
