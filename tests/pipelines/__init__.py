# SPDX-License-Identifier: MIT
"""Does each recipe of examples/pipelines do what its README says, with the real tools?

Each test executes one in a chroot of Debian's that has been made for it, and keeps a log of every
command in build/pipelines. Run by `make test-pipelines`, as root.
"""
