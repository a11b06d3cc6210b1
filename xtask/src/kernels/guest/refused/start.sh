# A kernel that is too old: the agent says so, by number and by what it needs, and changes nothing.
namespace lb
inside lb sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
for device in to-client to-v1 to-v2; do
    ip -n lb link add "$device" type veth peer name "$device-peer"
    ip -n lb link set "$device" up
done
config
code=0
inside lb grayxdp run --config "$CONFIG" >/tmp/agent.log 2>&1 || code=$?
[ "$code" = 1 ] || fail "exit code $code, wanted 1"
grep -q "kernel $(uname -r) is too old" /tmp/agent.log || fail "the message does not name the kernel's version"
grep -q 'needs 6\.1 or newer' /tmp/agent.log || fail "the message does not say which version it needs"
if ip -n lb link show | grep -q xdp; then fail "it attached all the same"; fi
[ -z "$(ls /sys/fs/bpf)" ] || fail "pins are left: $(ls -R /sys/fs/bpf)"
