# SPDX-License-Identifier: MIT
# Do jump labels and static calls follow? Each tracepoint is guarded by one of each.
. /instrument.sh

for round in 1 2; do
    echo 1 > events/sched/enable
    busy
    check "scheduler's tracepoints on, round $round" "$(grep -c sched_switch trace)"
    echo 0 > events/sched/enable
    echo > trace
    busy
    [ "$(grep -c sched_switch trace)" -eq 0 ] && echo "ok off, round $round"
done
echo 1 > events/enable
busy
echo 0 > events/enable
check "all tracepoints" "$(grep -vc '^#' trace)"
