# SPDX-License-Identifier: MIT
# The workload, and which processor had which interrupts meanwhile.
. /workload.sh
echo "== interrupts"
grep -E 'CPU0|^ *[0-9]+:|LOC:|RES:|CAL:|TLB:' /proc/interrupts
