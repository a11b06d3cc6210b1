# The kinds of device that other cases may build on are here.
namespace lb
ip -n lb link add under type dummy
ip -n lb link set under up
ip -n lb link add link under name vlan5 type vlan id 5
ip -n lb link add tunnel4 type ipip local 192.0.2.1 remote 192.0.2.2
ip -n lb link add tunnel6 type ip6tnl mode any local 2001:db8::1 remote 2001:db8::2
for device in vlan5 tunnel4 tunnel6; do ip -n lb link set "$device" up; done
