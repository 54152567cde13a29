# SPDX-License-Identifier: MIT
"""Do the translations of a rewritten kernel do what the instructions did? Both are run, in place.

The kernel is started twice, natively at CPL 0 and with a ROM at CPL 1, up to start_kernel: there
its runtime has just patched it. Then each kind of site is executed on both from the same random
states, and what comes of it is compared. `shapes` says which sites are alike, `scene` what is
around them, `states` where they start from, `stand` runs them, `outcome` says what is compared and
which differences are known, `check` does all of it for a kernel.
"""

from vmipatch.verify.sites.check import SitesReport, check_sites

__all__ = ["SitesReport", "check_sites"]
