# SPDX-License-Identifier: MIT
# Do modules come, work and go? /modules/order says which, each with its arguments. Every line
# printed here is the same in every run of one kernel.
cd /modules

echo "== load"
while read -r name arguments; do
    # shellcheck disable=SC2086  # a list of arguments
    insmod "$name.ko" $arguments && echo "loaded $name"
done < order

has() { grep -q "^$1" order; }

if has ext4; then
    echo "== loop device with ext4"
    mkdir /mnt
    losetup /dev/loop0 disk
    mount -t ext4 /dev/loop0 /mnt && cat /mnt/hello
    seq 1 20000 > /mnt/numbers
    mkdir /mnt/directory
    for name in 1 2 3 4 5 6 7 8; do seq 1 $((name * 100)) > /mnt/directory/$name; done
    rm /mnt/directory/7
    umount /mnt
    mount -t ext4 /dev/loop0 /mnt
    md5sum < /mnt/numbers
    cat /mnt/directory/* | md5sum
    umount /mnt
    losetup -d /dev/loop0
fi

echo "== hashes"
for name in blake2b cmac; do
    echo "$name $(./$name | od -An -v -tx1 | tr -d ' \n')"
done

echo "== network"
interface=/sys/class/net/dummy0
echo 1400 > $interface/mtu
# Up (1), and no ARP (0x80), which it never has. An address needs IPv4, which not every kernel has.
echo 0x81 > $interface/flags
echo "$(cat $interface/flags) $(cat $interface/mtu) $(cat $interface/operstate)"
if ifconfig dummy0 192.0.2.1 netmask 255.255.255.0 2> /dev/null; then
    ping -c 1 -W 1 192.0.2.2 | grep transmitted
    [ "$(cat $interface/statistics/tx_packets)" -gt 0 ] && echo "sent"
fi
if has tun; then
    tunctl -t tap0 > /dev/null && ifconfig tap0 192.0.2.129 up && ifconfig tap0 | grep -c 192.0.2.129
    ifconfig tap0 down
    tunctl -d tap0 > /dev/null
fi
echo 0x80 > $interface/flags

echo "== processor"
dd if=/dev/cpu/0/cpuid bs=16 count=1 2> /dev/null | od -An -v -tx1

echo "== unload"
sed -n '1!G;h;$p' order | while read -r name arguments; do
    rmmod "$name" && echo "unloaded $name"
done
wc -l < /proc/modules
