# SPDX-License-Identifier: MIT
# Does the kernel do what user space asks of it? Every line printed here is the same in every run
# of every kernel of one configuration: tests compare them exactly.

# A pipe that is never written to. (sleep(1) would do only where the kernel has COMPAT_32BIT_TIME.)
mkfifo /tmp/quiet
pause() { read -t "$1" nothing <> /tmp/quiet; }

echo "== processes"
count=0
while [ $count -lt 200 ]; do busybox true; count=$((count + 1)); done
echo "forked $count"
busybox false
echo "exit status $?"
for child in 1 2 3 4 5 6 7 8; do sh -c "exit $child" & done
wait
echo "waited for 8 children"
echo "processors $(nproc)"

echo "== pipes"
seq 1 20000 | sort -rn | sed -n '1p;$p' | tr '\n' ' '
echo
dd if=/dev/zero bs=4096 count=512 2> /dev/null | cat | md5sum
yes | head -n 1
mkfifo /tmp/fifo
seq 1 1000 > /tmp/fifo &
sha1sum < /tmp/fifo
wait

echo "== files"
mkdir -p /tmp/tree/a/b/deep
for name in 1 2 3 4 5 6 7 8; do seq 1 $((name * 1000)) > "/tmp/tree/a/b/$name"; done
cat /tmp/tree/a/b/? | md5sum
ln -s a/b /tmp/tree/link
cp -r /tmp/tree/a /tmp/tree/copy
mv /tmp/tree/copy/b/8 /tmp/tree/a/moved
rm -r /tmp/tree/copy/b/7
find /tmp/tree | sort | md5sum
stat -c '%s %F %A' /tmp/tree/a/moved /tmp/tree/a/b
dd if=/dev/zero of=/tmp/big bs=65536 count=64 2> /dev/null
md5sum /tmp/big
tar -cf - -C /tmp/tree a | tar -xf - -C /tmp -O a/moved | md5sum
gzip -c /tmp/big | gunzip | md5sum

echo "== signals"
trap 'echo "caught USR1"' USR1
kill -USR1 $$
trap 'hits=$((hits + 1))' USR2
hits=0
while [ $hits -lt 50 ]; do kill -USR2 $$; done
echo "caught USR2 $hits times"
cat <> /tmp/quiet &
kill -TERM $!
wait $! 2> /dev/null  # busybox says "Terminated" if it waited before the end came, else nothing
echo "terminated reader: $?"
sh -c 'kill -SEGV $$'
echo "segmentation fault: $?"
sh -c 'kill -STOP $$; echo "continued"' &
stopped=$!
while ! grep -q '^State:.*T' /proc/$stopped/status; do :; done
kill -CONT $stopped
wait $stopped
timeout 1 cat <> /tmp/quiet
echo "timed out: $?"

echo "== floating point, four processes at once"
for seed in 1 2 3 4; do
    awk -v seed=$seed 'BEGIN {
        for (i = 1; i <= 500; i++) {
            root = i
            for (step = 0; step < 8; step++) root = (root + i / root) / 2
            sum += root / seed - seed / i
        }
        printf "%d: %.17g\n", seed, sum
    }' > /tmp/float$seed &
done
wait
cat /tmp/float1 /tmp/float2 /tmp/float3 /tmp/float4

echo "== time"
before=$(cut -d ' ' -f 1 /proc/uptime)
pause 1.25
after=$(cut -d ' ' -f 1 /proc/uptime)
awk -v before=$before -v after=$after 'BEGIN {
    print (after - before >= 1.24) ? "slept long enough" : "woke after " after - before
}'

echo "== proc"
cat /proc/version
for name in cpuinfo interrupts iomem ioports kallsyms meminfo modules self/maps stat timer_list; do
    [ -r /proc/$name ] && cat /proc/$name > /dev/null && echo "read $name"
done
