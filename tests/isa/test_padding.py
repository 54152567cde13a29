# SPDX-License-Identifier: MIT
"""Are padding prefixes ignored, as both decoders see it?"""

from __future__ import annotations

import pytest

from tests.isa.encodings import by_capstone, by_iced, examples
from vmipatch.choices import Padding
from vmipatch.isa.forms import FORMS, Form, FormTreatment
from vmipatch.rewrite.body import DS_PREFIX, body_of, takes_prefix
from vmipatch.scan.site import Disposition, Fusion, Reason, Site

CALLS = [form for form in FORMS if form.treatment is FormTreatment.CALL]
each_call = pytest.mark.parametrize("form", CALLS, ids=lambda form: form.name)


def site_of(form: Form, code: bytes) -> Site:
    return Site(
        0xC1000000, code, 1, (form,), Fusion.NONE, form.call, Disposition.REWRITTEN, Reason.CALL
    )


@each_call
def test_prefixed_site_is_the_same_single_instruction(form: Form) -> None:
    for code in (c for c in examples(form) if takes_prefix(site_of(form, c))):
        for count in range(1, 5):
            for decode in (by_iced, by_capstone):
                bare, padded = decode(code), decode(DS_PREFIX * count + code)
                assert bare is not None
                assert padded == (len(code) + count, *bare[1:]), decode.__name__


@each_call
def test_instructions_that_read_memory_take_no_prefix(form: Form) -> None:
    """A segment prefix would choose another segment for [esp] or the source of outs."""
    for code in examples(form):
        decoded = by_iced(code)
        assert decoded is not None
        reads = "[" in decoded[2] or decoded[1].startswith("outs")
        assert takes_prefix(site_of(form, code)) is not reads


@pytest.mark.parametrize("padding", list(Padding))
@each_call
def test_body_holds_the_original_and_is_a_near_call_long(form: Form, padding: Padding) -> None:
    for code in examples(form):
        body = body_of(site_of(form, code), padding)
        assert len(body.code) == max(5, len(code))
        assert body.pad_len == len(body.code) - len(code)
        in_front = body.code.endswith(code)
        assert in_front or body.code.startswith(code)
        adds_none = body.pad_len == 0 or (in_front and body.code.startswith(DS_PREFIX))
        assert body.added_instructions == (0 if adds_none else 1)


@each_call
def test_nop_padding_adds_one_instruction_to_short_sites(form: Form) -> None:
    for code in (c for c in examples(form) if len(c) < 5):
        assert body_of(site_of(form, code), Padding.NOP).added_instructions == 1
