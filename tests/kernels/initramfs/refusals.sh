# SPDX-License-Identifier: MIT
# Which modules does the kernel take? Each in the order of /modules/order, and out again.
cd /modules
while read -r name arguments; do
    # shellcheck disable=SC2086  # a list of arguments
    if insmod "$name.ko" $arguments; then
        rmmod "$name" && echo "$name came and went"
    fi
done < order
