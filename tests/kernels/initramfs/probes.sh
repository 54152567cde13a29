# SPDX-License-Identifier: MIT
# Can a probe sit on each place that the file /places lists (function+offset)?
. /instrument.sh

number=0
while read -r place; do
    number=$((number + 1))
    echo "p:vmi/probe$number $place" >> kprobe_events || echo "REFUSED: $place"
    echo "r:vmi/return$number ${place%+*}" >> kprobe_events || echo "REFUSED: return from $place"
done < /places

echo 1 > events/vmi/enable
busy
echo 0 > events/vmi/enable
for probe in $(seq 1 $number); do
    check "probe $probe" "$(awk -v name=probe$probe '$1 == name { print $2 }' kprobe_profile)"
    check "return $probe" "$(awk -v name=return$probe '$1 == name { print $2 }' kprobe_profile)"
done
echo > kprobe_events
busy
