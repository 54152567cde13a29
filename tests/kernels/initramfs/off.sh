# SPDX-License-Identifier: MIT
# Are all processors in use, and does the kernel know how to switch the machine off?
echo "processors $(nproc)"
for child in 1 2 3 4; do seq 1 2000 | sort -rn | md5sum & done
wait
grep -E 'CPU0|^ *[0-9]+:|LOC:|RES:|CAL:|TLB:' /proc/interrupts
echo "VMI-MARK off"
read -t 0.2 nothing <> /dev/ttyS0
poweroff -f
