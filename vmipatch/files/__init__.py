# SPDX-License-Identifier: MIT
"""Files of every kind, opened once: what each is, what can be done with it, what comes of it.

`open` tells what a path or a file's bytes are; `kernel`, `module` and `tree` are the values that it
gives. `outputs` writes all files of a job whole, or none. Nothing here talks to a user.
"""
