# SPDX-License-Identifier: MIT
"""Sites to a new image."""

from vmipatch.rewrite.body import Padding
from vmipatch.rewrite.plan import Treatment
from vmipatch.rewrite.rewrite import RewriteOptions, RewrittenImage, rewrite

__all__ = ["Padding", "RewriteOptions", "RewrittenImage", "Treatment", "rewrite"]
