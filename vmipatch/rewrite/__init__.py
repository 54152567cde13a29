# SPDX-License-Identifier: MIT
"""Sites to a new image."""

from vmipatch.rewrite.plan import Treatment
from vmipatch.rewrite.rewrite import RewriteOptions, RewrittenImage, rewrite

__all__ = ["RewriteOptions", "RewrittenImage", "Treatment", "rewrite"]
