# SPDX-License-Identifier: MIT
# Does the kernel work at all? A few processes and pipes, for tests that look at something else.
seq 1 1000 | sort -rn | md5sum
sh -c 'exit 3'
echo "exit status $?"
