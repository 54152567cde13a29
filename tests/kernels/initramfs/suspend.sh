# SPDX-License-Identifier: MIT
# Does the machine go to sleep and come back, as far as its kernel lets it? The result of each
# attempt, whatever it is.
cd /sys/power || exit 1
echo "states: $(cat state)"
attempt() {
    echo "$1" > state 2> /dev/null
    echo "$2: $?"
}

# Everything but the last step, which the machine would take; without the five seconds in between.
echo 0 > /sys/module/suspend/parameters/pm_test_delay
for depth in freezer devices platform processors core; do
    echo $depth > pm_test
    attempt mem "memory, down to $depth"
done
echo none > pm_test

# To sleep, until the clock rings.
alarm=/sys/class/rtc/rtc0/wakealarm
echo 0 > $alarm
echo +3 > $alarm
attempt mem "memory"
# There is no room to write memory to.
attempt disk "disk"
seq 1 1000 | sort -rn | md5sum
