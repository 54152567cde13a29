# SPDX-License-Identifier: MIT
"""Is a bzImage's own code run where no payload is to be found, and nowhere else?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmipatch.errors import MalformedImage
from vmipatch.image.protected_mode import LOAD_PA, hides_payload, protected_mode_code
from vmipatch.image.setup_header import LoadFlag, SetupHeader

CODE = bytes(range(48))
OLD = SetupHeader(version=0x0207, loadflags=LoadFlag.LOADED_HIGH, setup_sects=2, syssize=3)


def bzimage(header: SetupHeader, code: bytes) -> bytes:
    """Only what stands after the setup counts."""
    return bytes(header.code_off) + code


@pytest.mark.parametrize(("version", "hidden"), [(0x0200, True), (0x0207, True), (0x0208, False)])
def test_payload_is_told_since_protocol_2_08(version: int, hidden: bool) -> None:
    assert hides_payload(replace(OLD, version=version, payload_length=100)) is hidden


def test_program_without_a_payload_is_run_as_it_is() -> None:
    assert hides_payload(replace(OLD, version=0x020C))


def test_code_after_the_setup_is_loaded_and_entered_at_1_mib() -> None:
    image = protected_mode_code(bzimage(OLD, CODE), OLD, "vmlinuz")
    (segment,) = image.loads
    assert (image.entry, segment.pa, segment.mem_len) == (LOAD_PA, LOAD_PA, len(CODE))
    assert image.data[segment.off : segment.off + segment.file_len] == CODE


def test_last_paragraph_may_be_short() -> None:
    image = protected_mode_code(bzimage(OLD, CODE[:-15]), OLD, "vmlinuz")
    (segment,) = image.loads
    assert segment.file_len == len(CODE) - 15


@pytest.mark.parametrize("code", [b"", CODE[:-16]])
def test_file_that_is_cut_is_refused(code: bytes) -> None:
    with pytest.raises(MalformedImage, match="promises 0x30 bytes"):
        protected_mode_code(bzimage(OLD, code), OLD, "vmlinuz")
