# SPDX-License-Identifier: MIT
# How much does a hypervisor have to do? The work of the prototype's measurements: 635,000 exits of
# an unmodified kernel by trap and emulate. Processes, files, system calls by the thousand, a second
# of idling. Change it, and figures in docs/bench.md and bounds in tests have to be measured anew.
cat /proc/version
head -12 /proc/cpuinfo
count=0
while [ $count -lt 200 ]; do busybox true; count=$((count + 1)); done
dd if=/dev/zero of=/tmp/zeros bs=4096 count=1024 2>&1
dd if=/tmp/zeros of=/dev/null bs=512 2>&1
md5sum /tmp/zeros
ls /proc | wc -l
cat /proc/interrupts
# (sleep(1) would do only where the kernel has COMPAT_32BIT_TIME.)
mkfifo /tmp/quiet
read -t 1 nothing <> /tmp/quiet
cat /proc/uptime
