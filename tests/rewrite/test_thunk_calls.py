# SPDX-License-Identifier: MIT
"""Which calls does a thunk make? The runtime uses it if the ROM serves those that it asks for."""

from __future__ import annotations

import pytest

from tests.isa.encodings import examples
from vmipatch.isa.classify import call_of
from vmipatch.isa.forms import FORMS, Form, FormTreatment
from vmipatch.rewrite.translate import Untranslatable, thunk_code
from vmipatch.scan.site import Disposition, Fusion, Reason, Site
from vmipatch.vmi.calls import VmiCall

CALLS = [form for form in FORMS if form.treatment is FormTreatment.CALL]


def calls_of_thunk(form: Form, code: bytes, call: VmiCall | None) -> set[VmiCall] | None:
    site = Site(0xC1000000, code, 1, (form,), Fusion.NONE, call, Disposition.REWRITTEN, Reason.CALL)
    try:
        thunk = thunk_code(site)
    except Untranslatable:
        return None
    if thunk is None:
        return None
    return {VmiCall(int(line[5:])) for line in thunk.lines if line.startswith("call ")}


@pytest.mark.parametrize("form", CALLS, ids=lambda form: form.name)
def test_thunk_makes_the_call_of_its_record_and_that_of_hlt_asks_for_the_mask(form: Form) -> None:
    for code in examples(form):
        call = call_of(form, code)
        made = calls_of_thunk(form, code, call)
        if made is None:
            continue
        if call is VmiCall.READ_SEGMENT:
            assert made == set(), "it needs no ROM"
        elif call is VmiCall.HALT:
            assert made == {VmiCall.HALT, VmiCall.GET_INTERRUPT_MASK}
        else:
            assert made == {call}


def test_most_kinds_have_a_thunk() -> None:
    """The test above sees some."""
    seen = {
        form.kind for form in CALLS for code in examples(form)
        if calls_of_thunk(form, code, call_of(form, code)) is not None
    }  # fmt: skip
    assert seen >= {"hlt", "pushf", "popf", "mov to cr", "mov from cr", "in", "out", "invlpg"}
