# SPDX-License-Identifier: MIT
"""`python -m vmipatch`: the command line without its script."""

from vmipatch.cli.main import main

main()
