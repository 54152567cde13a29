# SPDX-License-Identifier: MIT
"""The assembly that stands in front of a wrapped kernel: see `setup.S` first, then `entry.S`.

`setup.S` runs in real mode and fills boot_params; `entry.S` moves the image out of the kernel's
way; `slot.S` chooses where the kernel runs; `place.S` puts it there and starts it.
"""
