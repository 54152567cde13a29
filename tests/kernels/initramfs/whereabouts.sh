# SPDX-License-Identifier: MIT
# Where does the kernel run? And does it work there?
echo "text $(grep ' _text$' /proc/kallsyms | cut -d ' ' -f 1)"
. /workload.sh
