# SPDX-License-Identifier: MIT
"""Is what perf says of a run of the emulator read right?"""

from __future__ import annotations

from benchmarks.emulator_speed import Part, parts_of


def test_objects_become_kinds_of_code() -> None:
    report = """
# Overhead,Shared Object
#
 40.25% ,libpython3.11.so.1.0
 34.00% ,libunicorn.so.2
 15.50% ,[JIT] tid 24621
 5.75%  ,[kernel.kallsyms]
 2.00%  ,libc.so.6
 1.50%  ,_ctypes.cpython-311-x86_64-linux-gnu.so
 1.00%  ,libffi.so.8.1.2
"""
    assert parts_of(report.splitlines()) == (
        Part("Python and ctypes", 42.75),
        Part("libunicorn", 34.0),
        Part("translated code", 15.5),
        Part("host kernel", 5.75),
        Part("other libraries", 2.0),
    )


def test_a_report_without_samples_says_nothing() -> None:
    assert parts_of(["# Samples: 0", ""]) == ()
