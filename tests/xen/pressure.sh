# SPDX-License-Identifier: MIT
# What does a kernel with little memory do under load? 1,500 processes one after the other, 60 at a
# time, files in memory, copies in parallel.
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    i=0
    while [ $i -lt 100 ]; do
        (:)
        i=$((i + 1))
    done
done
echo "1500 processes"
i=0
while [ $i -lt 60 ]; do
    sleep 1 &
    i=$((i + 1))
done
wait
echo "60 at a time"
mount -t tmpfs none /tmp
for n in 1 2 3 4 5 6 7 8; do
    dd if=/dev/zero of=/tmp/$n bs=4096 count=1024 2> /dev/null &
done
wait
for n in 1 2 3 4 5 6 7 8; do
    md5sum /tmp/$n &
done | sort
rm /tmp/?
echo "files"
