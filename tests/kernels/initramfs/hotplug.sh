# SPDX-License-Identifier: MIT
# Does a processor go and come back? It leaves through the idle loop and returns by the boot code of
# secondary processors.
cpu=/sys/devices/system/cpu/cpu1
for round in 1 2 3; do
    echo 0 > $cpu/online
    echo "processors $(nproc)"
    echo 1 > $cpu/online
    echo "processors $(nproc)"
    taskset 2 sh -c 'seq 1 200 | md5sum'
done
