# SPDX-License-Identifier: MIT
# How do the programs in /returns end? And does the kernel work on after them?
for program in /returns/*; do
    "$program"
    echo "$program: $?"
done
echo "forked $(seq 1 100 | sort -rn | head -n 1)"
