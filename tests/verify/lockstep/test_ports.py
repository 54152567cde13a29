# SPDX-License-Identifier: MIT
"""Are writes to ports compared as closely as their device allows?"""

from __future__ import annotations

from vmipatch.verify.lockstep.ports import DEVICES, PortWrites


def sums(*writes: tuple[int, int]) -> list[str]:
    ports = PortWrites()
    assert all(ports.event(port, 1, value) is None for port, value in writes)
    return [text for _, text in ports.sums()]


def test_port_without_a_row_is_compared_in_full() -> None:
    assert PortWrites().event(0xCF8, 4, 0x80000000) == ("port 0xcf8", "out 0xcf8, 0x80000000")
    assert not sums()


def test_bits_that_show_a_timer_are_not_compared_and_the_others_are() -> None:
    event = PortWrites().event
    assert event(0x61, 1, 0x31) == event(0x61, 1, 0x01) != event(0x61, 1, 0x30)


def test_what_follows_the_clock_is_compared_by_values_or_not_at_all() -> None:
    assert sums((0x20, 0x60), (0x20, 0x64)) == sums((0x20, 0x64), (0x20, 0x60), (0x20, 0x60))
    assert sums((0x20, 0x60)) != sums((0x20, 0x61))
    assert sums((0x40, 1)) == sums((0x40, 2), (0x40, 3)) != []
    assert sums((0x3F8, 65)) == []


def test_every_device_has_a_reason_and_ports_of_its_own() -> None:
    ports = [port for device in DEVICES for port in range(device.first, device.last + 1)]
    assert len(ports) == len(set(ports))
    assert all(device.reason and device.name for device in DEVICES)
