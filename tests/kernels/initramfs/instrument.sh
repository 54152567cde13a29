# SPDX-License-Identifier: MIT
# What do the scripts share that change the kernel's code while it runs?
cd /sys/kernel/tracing || exit 1
mount -t tracefs tracefs .
cd /sys/kernel/tracing || exit 1
echo 64 > buffer_size_kb
mkfifo /tmp/quiet

# Processes, pipes, sleeping and waking, faults, on every processor.
busy() {
    for cpu in $(seq 0 $(($(nproc) - 1))); do
        taskset $((1 << cpu)) sh -c 'seq 1 200 | sort -rn | md5sum > /dev/null'
    done
    read -t 0.05 nothing <> /tmp/quiet
}

# check WHAT COUNT: whether something was counted.
check() {
    if [ "$2" -gt 0 ]; then echo "ok $1"; else echo "NOTHING SEEN: $1"; fi
}
