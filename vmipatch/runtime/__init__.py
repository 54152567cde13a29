# SPDX-License-Identifier: MIT
"""The code that a rewritten kernel runs before start_kernel, and for each module it loads."""

from vmipatch.runtime.build import Runtime, RuntimeFacts, build_runtime

__all__ = ["Runtime", "RuntimeFacts", "build_runtime"]
