# The agent dies: traffic goes on at the same weight, and the next one takes it over. Detach leaves nothing.
topology
serve
agent
set_weight 100
all_from v2
kill -9 "$AGENT"
wait "$AGENT" || true
all_from v2
start_agent
gx status web4 | grep -q 100 || fail "the weight is lost: $(gx status web4)"
all_from v2

gx detach
wait "$AGENT" || fail "after detach, the agent ended with an error"
if ip -n lb link show | grep -q xdp; then fail "still attached: $(ip -n lb link show)"; fi
[ -z "$(ls /sys/fs/bpf)" ] || fail "pins are left: $(ls -R /sys/fs/bpf)"
if ask "$VIP4"; then fail "the VIP still answers"; fi
