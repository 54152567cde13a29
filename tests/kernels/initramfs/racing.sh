# SPDX-License-Identifier: MIT
# What does a workload do that differs from itself? It lists processes while others come and go: how
# many it meets depends on when the timer ticks.
round=0
while [ $round -lt 6 ]; do
    (child=0; while [ $child -lt 4 ]; do busybox true; child=$((child + 1)); done) &
    (child=0; while [ $child -lt 3 ]; do busybox usleep 1000; child=$((child + 1)); done) &
    busybox ls /proc
    busybox ps
    round=$((round + 1))
done
wait
echo "racing done"
