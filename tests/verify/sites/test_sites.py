# SPDX-License-Identifier: MIT
"""Does each translation, at CPL 1, what its instruction does at CPL 0?

Run one of them again with the seed of its finding:
`check_sites(image, rom, states=..., seed=..., shapes=[shape])`.
"""

from __future__ import annotations

import pytest

from tests.conftest import KernelFinder
from tests.verify.sites.kernels import example, paravirt_rom, rewritten_example
from vmipatch.choices import Mode
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.isa.forms import FORMS, FormTreatment
from vmipatch.verify.sites import SitesReport, check_sites
from vmipatch.verify.sites.shapes import shapes_of

SAMPLE, CAMPAIGN = 20, 1000
KERNELS = ("tiny", "smp-pae")
ROM_MODES = (Mode.PARAVIRT, Mode.AUDIT)

WITHOUT_A_SITE = {
    "lmsw r/m16": "no translation: it stays native and faults",
}
"""Forms with a call that the example guest has no translation of, and why."""


def complaints(report: SitesReport) -> str:
    return "\n".join(map(str, report.findings))


def test_example_has_a_site_of_every_form_with_a_call() -> None:
    sites = [shape.site for shape in shapes_of(rewritten_example()).shapes]
    parts = {part.form.name for site in sites for part in site.parts}
    wanted = {form.name for form in FORMS if form.treatment is FormTreatment.CALL}
    assert wanted - parts == set(WITHOUT_A_SITE)


@pytest.mark.parametrize("mode", ROM_MODES)
def test_translations_of_the_example(mode: Mode) -> None:
    report = check_sites(rewritten_example(), paravirt_rom(), states=SAMPLE, mode=mode)
    assert not report.findings, complaints(report)


@pytest.mark.kernels
@pytest.mark.parametrize("name", KERNELS)
def test_translations_of_a_kernel(rewritten: KernelFinder, name: str) -> None:
    image = ElfImage.parse(rewritten(name).read_bytes(), name)
    report = check_sites(image, paravirt_rom(), states=SAMPLE)
    assert not report.findings, complaints(report)
    assert report.sites > 3000


@pytest.mark.slow
@pytest.mark.kernels
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", KERNELS)
def test_campaign_over_a_kernel(rewritten: KernelFinder, name: str, seed: int) -> None:
    image = ElfImage.parse(rewritten(name).read_bytes(), name)
    report = check_sites(image, paravirt_rom(), states=CAMPAIGN // 4, seed=f"campaign {seed}")
    assert not report.findings, complaints(report)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", ROM_MODES)
def test_campaign_over_the_example(mode: Mode, seed: int) -> None:
    report = check_sites(
        rewritten_example(),
        paravirt_rom(),
        states=CAMPAIGN // 4,
        seed=f"campaign {seed}",
        mode=mode,
    )
    assert not report.findings, complaints(report)


def test_kernel_that_was_not_rewritten_is_refused() -> None:
    with pytest.raises(InputNotUnderstood, match="not paravirtual at start_kernel"):
        check_sites(example(), paravirt_rom(), states=1)
