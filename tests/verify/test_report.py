# SPDX-License-Identifier: MIT
"""Is the HTML report one page that stands alone, hides nothing, and looks as it should?"""

from __future__ import annotations

import re
import struct
import subprocess
import zlib
from html import escape
from pathlib import Path

import pytest

from tests.support.absent import program
from tests.verify.evidence import boot, evidence, full_verdict
from tests.verify.pair import small_pair
from vmipatch.emu.report import Ending
from vmipatch.verify.boots import Phase
from vmipatch.verify.certificate import certificate
from vmipatch.verify.html import POLICY
from vmipatch.verify.judge import judge
from vmipatch.verify.plan import Kernel
from vmipatch.verify.report_html import html_report
from vmipatch.verify.verdict import Statement, Verdict

WIDTH, HEIGHT = 1200, 3000
BOOTED = (Phase.ORIGINAL, Phase.NATIVE, Phase.AUDIT)
NARROW = 400
"""Columns of pixels of a telephone."""
ORIGINAL, OUTPUT = map(Kernel.of, small_pair())
SECONDS = 120
PROBE = """
<script>
const boxes = [...document.querySelectorAll('h1,h2,p,td,th,b,span,svg,summary')]
  .filter(e => !e.closest('details') || e.matches('summary'))
  .map(e => [e, e.getBoundingClientRect()]).filter(([_, r]) => r.width && r.height);
const crossing = [];
for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
  const [a, p] = boxes[i], [b, q] = boxes[j];
  if (a.contains(b) || b.contains(a)) continue;
  if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 1 && q.top < p.bottom - 1)
    crossing.push(a.tagName + ':' + a.textContent + ' / ' + b.tagName + ':' + b.textContent);
}
const loaded = performance.getEntriesByType('resource').map(r => r.name);
if (window.innerWidth != WINDOW) crossing.push('width ' + window.innerWidth);
const wide = document.documentElement.scrollWidth > window.innerWidth;
const text = document.createElement('pre');
text.id = 'probe';
text.textContent = JSON.stringify([boxes.length, crossing, loaded, wide]);
window.top.document.body.append(text);
</script>
"""


def chromium(page: Path, *arguments: str, home: Path) -> str:
    """Open a page without a network; returns what Chromium prints."""
    command = [
        program("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={home}",
        f"--window-size={WIDTH},{HEIGHT}", *arguments, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def page_of(verdict: Verdict) -> str:
    return html_report(verdict, certificate(OUTPUT, ORIGINAL, verdict))


@pytest.fixture
def page() -> str:
    return page_of(full_verdict())


@pytest.fixture
def failed_page() -> str:
    verdict = full_verdict(ending=Ending.TRIPLE_FAULT, console="<script>alert(1)</script>\n")
    return page_of(verdict)


def test_page_promises_and_needs_no_network(page: str, failed_page: str) -> None:
    for text in (page, failed_page):
        assert f'content="{POLICY}"' in text
        assert "default-src 'none'" in POLICY and "script-src" not in POLICY
        assert not re.search(
            r"https?:|url\(|@import|\bsrc=|\bhref=|<(script|link|img|iframe)", text
        )


def test_page_is_the_same_on_every_host() -> None:
    pages = {page_of(judge(evidence(boot(Phase.AUDIT, seconds=seconds)))) for seconds in (1.0, 2.0)}
    assert len(pages) == 1


def test_page_says_what_the_verdict_says(page: str, failed_page: str) -> None:
    assert Statement.PROVEN_AND_BOOTED.value in page
    assert Statement.FAILS.value in failed_page
    assert 'id="findings"' in failed_page and 'id="findings"' not in page
    assert "machine_restart+0x3 (0xc1000003)" in failed_page
    assert "&lt;script&gt;alert(1)" in failed_page
    for phase in Phase:
        assert phase.value in page


def test_every_class_and_kind_of_exit_is_drawn(page: str) -> None:
    coverage = full_verdict().evidence.coverage
    assert coverage is not None
    for share in coverage.classes:
        assert f"<td><code>{share.name}</code></td>" in page
    for kind in ("cli", "page fault", "port read"):
        assert f"<td>{kind}</td>" in page
    assert page.count("<svg") > len(coverage.classes) + 5


def probe(text: str, directory: Path, width: int = WIDTH) -> tuple[int, str]:
    """How many boxes a page has, and crossing ones, loaded resources and excess width as JSON.

    The page is in a frame: a window of Chromium is never as narrow as a telephone.
    """
    policy = POLICY + "; script-src 'unsafe-inline'"
    file = directory / "probed.html"
    probed = text.replace(POLICY, policy).replace("</body>", f"{PROBE}</body>")
    probed = probed.replace("WINDOW", str(width))
    frame = f'<iframe width="{width}" height="{HEIGHT}" srcdoc="{escape(probed)}"></iframe>'
    file.write_text(f"<!DOCTYPE html><body>{frame}</body>")
    dom = chromium(file, "--dump-dom", home=directory / "home")
    found = re.search(r'<pre id="probe">\[(\d+),(.*)\]</pre>', dom)
    assert found, dom[-2000:]
    return int(found[1]), found[2]


def test_page_says_what_was_not_done_and_what_it_rests_on() -> None:
    verdict = judge(evidence(boot(Phase.AUDIT)))
    told = certificate(OUTPUT, ORIGINAL, verdict)
    text = page_of(verdict)
    assert told["not_done"], "or the page has nothing to say"
    for line in told["not_done"]:
        assert escape(line["what"]) in text and escape(line["how"]) in text
    for what in told["never_covered"]:
        assert escape(what) in text
    for digest in (told["output_sha256"], told["input_sha256"], told["rom_sha256"]):
        assert digest in text
    for version in (told["tool"]["version"], *told["tool"]["decoders"].values()):
        assert f"<code>{version}</code>" in text


def test_an_end_by_a_fault_is_explained_where_it_holds() -> None:
    verdict = judge(evidence(*(boot(p, ending=Ending.RESET_BY_FAULT) for p in BOOTED)))
    assert verdict.holds
    assert escape(Ending.RESET_BY_FAULT.means) in page_of(verdict)
    observed = certificate(OUTPUT, ORIGINAL, verdict)["observed"]
    assert {each["by_guest"] for each in observed.values()} == {True}
    assert {each["means"] for each in observed.values()} == {Ending.RESET_BY_FAULT.means}
    for ending in Ending:
        assert not ending.means or ending.by_guest


def test_each_table_has_a_caption_and_each_part_a_name(page: str, failed_page: str) -> None:
    for text in (page, failed_page):
        assert text.count("<table>") == text.count("<caption>") > 5
        names = re.findall(r'<section id="([^"]*)"', text)
        assert len(set(names)) == len(names) == text.count("<section")
        heads = re.findall(r"<th\b[^>]*>", text)
        assert {head for head in heads if "scope" not in head} <= {"<th class=drawn>"}
        assert not re.search(r"<th>[^<]", text), "a column with a name has a scope"


@pytest.mark.parametrize("width", [NARROW, WIDTH])
@pytest.mark.parametrize("which", ["page", "failed_page"])
def test_nothing_overlaps_in_a_browser(
    which: str, width: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    boxes, faults = probe(request.getfixturevalue(which), tmp_path, width)
    assert boxes > 50, "the page is empty"
    assert faults == "[],[],false"


def test_overlap_would_be_seen(page: str, tmp_path: Path) -> None:
    crooked = page.replace("</style>", "h2 { position: relative; top: 3rem; }</style>")
    _, faults = probe(crooked, tmp_path)
    assert "H2:Phases / " in faults


def test_screenshot_shows_something(page: str, tmp_path: Path) -> None:
    file, shot = tmp_path / "page.html", tmp_path / "shot.png"
    file.write_text(page)
    chromium(file, f"--screenshot={shot}", home=tmp_path / "home")
    width, height, pixels = png_rows(shot.read_bytes())
    assert (width, height) == (WIDTH, HEIGHT)
    busy = sum(len(set(row)) > 3 for row in pixels)
    assert busy > 300, "rows of pixels that are not of one colour"


def png_rows(data: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and the filtered rows of a PNG file."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, packed, width, height, pixel_len = 8, b"", 0, 0, 0
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", body)
            assert depth == 8
            pixel_len = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    raw = zlib.decompress(packed)
    row_len = 1 + width * pixel_len
    return width, height, [raw[i : i + row_len] for i in range(0, len(raw), row_len)]
