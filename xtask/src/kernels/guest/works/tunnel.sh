# Mode ipip: the backends' own tunnel devices take the outer header off, IPv4 in IPv4, IPv6 in IPv6, and IPv4 in IPv6.
VIP46=203.0.113.46
PORT=80
MODE='mode = "ipip"'
topology
for version in v1 v2; do
    number=${version#v}
    ip -n "$version" address add "fd00:$number::11/64" dev eth0 nodad
    ip -n "$version" link add tunnel4 type ipip local "10.0.$number.10"
    ip -n "$version" link add tunnel6 type ip6tnl mode ip6ip6 local "fd00:$number::10"
    ip -n "$version" link add tunnel46 type ip6tnl mode ipip6 local "fd00:$number::11"
    for device in tunnel4 tunnel6 tunnel46; do ip -n "$version" link set "$device" up; done
    for vip in "$VIP4/32" "$VIP46/32" "$VIP6/128"; do ip -n "$version" address add "$vip" dev lo; done
done
serve
config
service web46 "$VIP46" "[fd00:1::11]" "[fd00:2::11]" >>"$CONFIG"
VIPS="$VIP4 $VIP6 $VIP46"
SERVICES="web4 web6 web46"
start_agent

all_from v1
set_weight 100
all_from v2
for version in v1 v2; do
    for device in tunnel4 tunnel6 tunnel46; do
        # Eight requests, of five packets at least.
        [ "$(received "$version" "$device")" -ge 40 ] || fail "$device of $version: $(received "$version" "$device") packets"
    done
done

# A request that fills a packet of the client's link, and with an outer header is too big for the backend's: the client is
# told so, and sends smaller ones.
filler=$(head -c 4000 /dev/zero | tr '\0' x)
for vip in $VIPS; do
    [ "$(ask "$vip" "?$filler")" = v2 ] || fail "$vip: a large request was not answered"
done
