# SPDX-License-Identifier: MIT
"""Does `verify` fail, and say where, for each wrong rewrite of what a boot really executes?

VMIPATCH_SEED gives another seed; `new` draws one.
"""

from __future__ import annotations

import enum
import importlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest

from tests.conftest import KernelFinder
from tests.support.draws import drawn_seed
from tests.verify import faults
from tests.verify.faults import Victim
from vmipatch.choices import Extent
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite.annotate import AnnotationSegment, annotate
from vmipatch.rewrite.rewrite import RewriteOptions, rewrite
from vmipatch.rewrite.translate import ThunkCode, thunk_code
from vmipatch.scan.site import Site
from vmipatch.tables.find import find_all
from vmipatch.tables.table import TableName
from vmipatch.verify.boots import Phase
from vmipatch.verify.coverage import AnnotatedSite, Sites, function_of
from vmipatch.verify.plan import Kernel, Request, verify
from vmipatch.verify.verdict import Statement
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import RECORD_LEN, AnnotationRecord, unpack_records

pytestmark = pytest.mark.kernels

OF_EACH_KIND = 20
LIMIT_NS = 20_000_000_000
REWRITING = importlib.import_module("vmipatch.rewrite.rewrite")
"""The module: its package has a function of that name."""
THUNKING = importlib.import_module("vmipatch.rewrite.thunks")


class Kind(enum.Enum):
    """How a rewrite can be wrong."""

    NO_RECORD = "a site missing from the annotations"
    REGISTER = "a thunk that changes a register"
    FLAGS = "a thunk that changes flags"
    CALL = "a wrong call number"
    EX_TABLE = "an entry of the exception table not moved"
    SHADOW = "a body that loses the interrupt shadow"
    BRANCH = "a branch off by one"


@dataclass(frozen=True, slots=True)
class Seeded:
    """A wrong kernel, and what a finding may name: any of these."""

    data: bytes
    names: tuple[str, ...]
    what: str


class Field:
    """The kernel that faults are sown in, and the sites that its boot executes."""

    def __init__(self, original: bytes) -> None:
        self.original = ElfImage.parse(original, "tiny")
        self.victim = Victim(self.original, RewriteOptions())
        self.sites = Sites.of(self.victim.whole)
        data = self.victim.result.data
        verdict = verify(Request(Kernel("tiny.vmi", data), None, Extent.QUICK))
        assert verdict.holds, "\n".join(map(str, verdict.findings))
        executed = verdict.evidence.boots[Phase.AUDIT].executed
        self.executed = [site for site in self.sites.annotated if site.va in executed]
        self.functions = {site.function for site in self.executed}


@cache
def field(vmlinux: str) -> Field:
    with open(vmlinux, "rb") as file:
        return Field(file.read())


@pytest.fixture
def dice() -> random.Random:
    return random.Random(drawn_seed())


def sow(ground: Field, kind: Kind, dice: random.Random, patch: pytest.MonkeyPatch) -> Seeded:
    """One fault of a kind at an executed place."""
    match kind:
        case Kind.NO_RECORD | Kind.CALL:
            return wrong_record(ground, kind, dice, patch)
        case Kind.REGISTER | Kind.FLAGS:
            return wrong_thunk(ground, kind, dice, patch)
        case Kind.SHADOW:
            return lost_shadow(ground, dice)
        case Kind.EX_TABLE | Kind.BRANCH:
            return wrong_target(ground, kind, dice)


def wrong_record(
    ground: Field, kind: Kind, dice: random.Random, patch: pytest.MonkeyPatch
) -> Seeded:
    """A record that repeats its neighbour, or has another call; its sums are right."""
    permanent = [s for s in ground.executed if s.kind in ("cli", "sti", "pushf", "popf", "iret")]
    site = dice.choice(permanent)

    def damaged(*arguments: Any) -> AnnotationSegment:
        good = annotate(*arguments)
        for name in ("records", "init_records"):
            part = getattr(good, name)
            records = list(unpack_records(part.data))
            at = next((i for i, r in enumerate(records) if r.native_va == site.va), None)
            if at is not None:
                records[at] = wrong(records, at)
                data = b"".join(record.pack() for record in records)
                assert len(data) == RECORD_LEN * len(records) and data != part.data
                return replace(good, **{name: replace(part, data=data)})
        raise AssertionError("the site has a record")

    def wrong(records: list[AnnotationRecord], at: int) -> AnnotationRecord:
        if kind is Kind.NO_RECORD:
            return records[at - 1] if at else records[1]
        others = [VmiCall.GET_CR2, VmiCall.GET_CR3, VmiCall.RDTSC]
        return replace(records[at], call=dice.choice(others))

    patch.setattr(REWRITING, "annotate", damaged)
    data = rewrite(ground.original).data
    return Seeded(data, named(site), f"{site.kind} at {site.va:#x} in {site.function}")


def wrong_thunk(
    ground: Field, kind: Kind, dice: random.Random, patch: pytest.MonkeyPatch
) -> Seeded:
    """One more instruction before a thunk returns."""
    site = dice.choice([s for s in ground.executed if s.kind in ("pushf", "popf", "in", "out")])
    back = ground.victim.result.placement.map.inverse()
    chosen = next(s for s, _ in ground.victim.result.sites if s.va == back.one(site.va))
    code = thunk_code(chosen)
    if code is None:  # the site calls the ROM itself: another one
        return wrong_thunk(ground, kind, dice, patch)
    register = dice.choice(["ecx", "edx", "ebx", "esi", "edi", "ebp"])
    extra = f"lea {register}, [{register} + 1]" if kind is Kind.REGISTER else "cmp esp, 0"
    at = len(code.lines) - 1
    assert code.lines[at] == "ret"
    lines = (*code.lines[:at], extra, "ret")

    def damaged(one: Site) -> ThunkCode | None:
        found = thunk_code(one)
        return replace(found, lines=lines) if found == code else found

    patch.setattr(THUNKING, "thunk_code", damaged)
    data = rewrite(ground.original).data
    new = ground.victim.result.placement.map
    users = [new.one(s.va) for s, _ in ground.victim.result.sites if thunk_code(s) == code]
    names = tuple(f"{va:#x}" for va in users)
    return Seeded(data, names, f"`{extra}` in the thunk of {site.kind} at {site.va:#x}")


def lost_shadow(ground: Field, dice: random.Random) -> Seeded:
    """Nops after `sti` instead of prefixes in front of it."""
    victim = ground.victim
    victim.heal()
    site = dice.choice([s for s in ground.executed if s.kind in ("sti", "sti+hlt")])
    body = victim.whole.read(site.va, 8)
    at = body.index(b"\xfb")
    victim.write(site.va, b"\xfb" + b"\x90" * at)
    return Seeded(bytes(victim.data), named(site), f"sti at {site.va:#x} in {site.function}")


def wrong_target(ground: Field, kind: Kind, dice: random.Random) -> Seeded:
    """A branch, or a word of the exception table, in a function that is executed."""
    victim = ground.victim
    while True:
        victim.heal()
        for fault in candidates(ground, kind, dice):
            function = function_of(victim.whole, fault.va)
            if kind is Kind.EX_TABLE or function in ground.functions:
                names = (fault.place, f"{fault.va:#x}")
                return Seeded(bytes(victim.data), names, f"{fault.what} in {fault.place}")
            victim.heal()


def candidates(ground: Field, kind: Kind, dice: random.Random) -> Iterator[faults.SeededFault]:
    if kind is Kind.BRANCH:
        return faults.branches_off_by_one(ground.victim, dice, 200)
    table = next(t for t in find_all(ground.original) if t.name is TableName.EX_TABLE)
    return faults.table_words_left_behind(ground.victim, dice, table, 1)


def named(site: AnnotatedSite) -> tuple[str, ...]:
    return site.function, f"{site.va:#x}"


def check_caught(ground: Field, seeded: Seeded, extent: Extent) -> None:
    """The verdict is that it does not hold, and a finding names the place."""
    original = Kernel("tiny", ground.original.data)
    request = Request(Kernel("wrong", seeded.data), original, extent, limit_ns=LIMIT_NS)
    verdict = verify(request)
    assert verdict.statement is Statement.FAILS, f"{seeded.what} went unseen"
    text = "\n".join(map(str, verdict.findings))
    assert not seeded.names or any(name in text for name in seeded.names), f"{seeded.what}\n{text}"


STATICALLY = (Kind.NO_RECORD, Kind.CALL, Kind.EX_TABLE, Kind.SHADOW, Kind.BRANCH)
Sower = Callable[[Kind], Seeded]


@pytest.fixture
def ground(kernel: KernelFinder) -> Field:
    return field(str(kernel("tiny")))


@pytest.mark.parametrize("kind", STATICALLY)
def test_wrong_rewrite_is_caught_from_its_bytes(
    ground: Field, kind: Kind, dice: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_caught(ground, sow(ground, kind, dice, monkeypatch), Extent.STATIC)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(OF_EACH_KIND))
@pytest.mark.parametrize("kind", Kind)
def test_every_wrong_rewrite_is_caught(
    ground: Field, kind: Kind, number: int, dice: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_caught(ground, sow(ground, kind, dice, monkeypatch), Extent.QUICK)
