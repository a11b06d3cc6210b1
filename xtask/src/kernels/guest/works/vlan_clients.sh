# Clients in a VLAN, backends in none: tags are taken off on the way in, and put on on the way out.
VLANS=5
topology
serve
agent

all_from v1
set_weight 100
all_from v2
