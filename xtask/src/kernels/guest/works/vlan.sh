# Clients and backends in VLANs of their own, by VLAN devices at every end. First the agent is on the devices below, where
# frames have tags, then on the VLAN devices themselves, which have generic XDP only.
VLANS="5 6 7"
topology
serve
agent

all_from v1
set_weight 100
all_from v2
gx detach
wait "$AGENT" || fail "after detach, the agent ended with an error"

INTERFACES='"to-client.5", "to-v1.6", "to-v2.7"'
XDP_MODE=generic
agent
set_weight 0
all_from v1
set_weight 100
all_from v2
