# SPDX-License-Identifier: MIT
# Does every function still call its tracer when told to, and stop when told to?
. /instrument.sh

for tracer in ${1:-function function_graph}; do
    echo $tracer > current_tracer
    busy
    # Lines without a number sign are calls; the buffer is too small for any one to be sure.
    check "$tracer tracer" "$(grep -vc "^#" trace)"
    echo nop > current_tracer
    busy
done
