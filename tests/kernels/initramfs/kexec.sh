# SPDX-License-Identifier: MIT
# Does the kernel start its successor? /kexec holds it, and comes back only if it is refused.
/kexec
echo "refused: $?"
