# Removes what process $1 left behind: its namespaces with all that runs in them, its pins, its files under $2.
# $3 = "wait": first waits for the end of its input, which comes when the process ends, in whatever way.
trap '' INT TERM HUP
if [ "$3" = wait ]; then
    cat >/dev/null
fi
prefix="gx-$1-"
namespaces() {
    ls /run/netns 2>/dev/null | while read -r name; do
        case "$name" in "$prefix"*) echo "$name" ;; esac
    done
}
for name in $(namespaces); do
    for pid in $(ip netns pids "$name"); do
        kill -9 "$pid"
    done
done
rm -rf /sys/fs/bpf/"$prefix"*
for name in $(namespaces); do
    ip netns del "$name"
done
rm -rf "$2/$prefix"*
