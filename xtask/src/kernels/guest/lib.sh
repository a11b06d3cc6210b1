# What cases are made of. A case is a file in works/ or refused/, read by `sh -eu` after this one.
#
#   topology                four namespaces: client, lb, v1, v2, routed by lb; both address families
#   serve                   HTTP on port $PORT of v1 and v2, telling its version
#   agent [TOML…]           the agent on lb, with the services web4 and web6; TOML goes into [agent]
#   inside NAMESPACE CMD…   runs a command there
#   gx ARGS…                a command for the agent
#   set_weight PERCENT      of all services
#   ask VIP [PATH]          the answer to one request by the client, from its address number $SOURCE
#   answers VIP             which versions answer the client's addresses
#   all_from VERSION        one and the same for all of them, at each VIP
#   received HOST DEVICE    how many packets came in by a device
#   soon CMD…               tries a command until it succeeds
#   fail WORDS…             ends the case; `skip WORDS…` too, and then it does not count

CONFIG=/tmp/grayxdp.toml
VIP4=203.0.113.10
VIP6=2001:db8::10
# A case may set these, VLANS before `topology`, PORT before `serve`, the others before `agent`.
# Of the links to client, v1, and v2; links without one have no tags.
VLANS=
VIPS="$VIP4 $VIP6"
SERVICES="web4 web6"
INTERFACES='"to-client", "to-v1", "to-v2"'
XDP_MODE=native
# A line of each service.
MODE='mode = "nat"'
# Of the backends.
PORT=8080
# Each family has as many client addresses: 10.20.0.1 …, fd00:20::1 …
SOURCES="1 2 3 4 5 6 7 8"
SOURCE=1

fail() { echo "$*"; [ ! -e /tmp/agent.log ] || cat /tmp/agent.log; exit 1; }
skip() { echo "$*"; exit 77; }

# Not `ip netns exec`, which mounts another /sys over the one with the pins.
inside() { namespace=$1; shift; nsenter "--net=/run/netns/$namespace" "$@"; }
gx() { inside lb grayxdp --socket /tmp/agent.sock "$@"; }

# Tries a command every 0.2 s, 20 s long.
soon() {
    tries=100
    until "$@" >/run/soon 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "not within 20 s: $*: $(cat /run/soon)"
        sleep 0.2
    done
}

namespace() {
    ip netns add "$1"
    inside "$1" sysctl -q -w net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    ip -n "$1" link set lo up
}

# connect HOST DEVICE NET4 NET6: a veth pair from lb (.1, ::1) to HOST's eth0 (.10, ::10), HOST's way out. The first number
# of VLANS is this pair's: then the addresses are on VLAN devices above.
connect() {
    ip -n lb link add "$2" type veth peer name eth0 netns "$1"
    # Checksums by the sender, and a receive queue for what XDP sends; before the devices go up. Tags are in the frames,
    # where XDP sees them, and not beside them.
    inside lb ethtool -K "$2" tx off gro on txvlan off >/dev/null
    inside "$1" ethtool -K eth0 tx off gro on txvlan off >/dev/null
    ip -n lb link set "$2" up
    ip -n "$1" link set eth0 up
    lb_end=$2 host_end=eth0 vlan=${VLANS%% *}
    if [ -n "$vlan" ]; then
        lb_end=$2.$vlan host_end=eth0.$vlan
        ip -n lb link add link "$2" name "$lb_end" up type vlan id "$vlan"
        ip -n "$1" link add link eth0 name "$host_end" up type vlan id "$vlan"
        VLANS=${VLANS#"$vlan"}
        VLANS=${VLANS# }
    fi
    ip -n lb address add "$3.1/24" dev "$lb_end"
    ip -n lb address add "$4::1/64" dev "$lb_end" nodad
    ip -n "$1" address add "$3.10/24" dev "$host_end"
    ip -n "$1" address add "$4::10/64" dev "$host_end" nodad
    ip -n "$1" route add default via "$3.1"
    ip -n "$1" route add default via "$4::1"
}

topology() {
    for host in client lb v1 v2; do namespace "$host"; done
    inside lb sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    connect client to-client 10.10.0 fd00:10
    connect v1 to-v1 10.0.1 fd00:1
    connect v2 to-v2 10.0.2 fd00:2
    for number in $SOURCES; do
        ip -n client address add "10.20.0.$number/32" dev lo
        ip -n client address add "fd00:20::$number/128" dev lo nodad
    done
    ip -n lb route add 10.20.0.0/24 via 10.10.0.10
    ip -n lb route add fd00:20::/64 via fd00:10::10
}

serve() {
    for version in v1 v2; do
        mkdir -p "/tmp/$version"
        echo "$version" >"/tmp/$version/index.html"
        inside "$version" httpd -f -p "$PORT" -h "/tmp/$version" &
    done
    soon inside lb curl -fsS -m 2 "http://10.0.1.10:$PORT/"
    soon inside lb curl -fsS -m 2 "http://[fd00:2::10]:$PORT/"
}

# service NAME VIP V1 V2
service() {
    cat <<END
[[service]]
name = "$1"
vip = "$2"
port = 80
protocol = "tcp"
hash_seed = "smoke"
$MODE
v1 = { backends = [{ address = "$3:$PORT" }] }
v2 = { backends = [{ address = "$4:$PORT" }] }
END
}

config() {
    {
        cat <<END
[agent]
interfaces = [$INTERFACES]
xdp_mode = "$XDP_MODE"
socket = "/tmp/agent.sock"
state = "/tmp/state.db"
max_flows = 4096
END
        for line in "$@"; do echo "$line"; done
        service web4 "$VIP4" 10.0.1.10 10.0.2.10
        service web6 "$VIP6" "[fd00:1::10]" "[fd00:2::10]"
    } >"$CONFIG"
}

agent() {
    config "$@"
    start_agent
}

# Starts it (again); AGENT is its process.
start_agent() {
    # Not by `inside`, whose process would be a shell between.
    nsenter --net=/run/netns/lb grayxdp run --config "$CONFIG" >>/tmp/agent.log 2>&1 &
    AGENT=$!
    soon agent_settled
    kill -0 "$AGENT" 2>/dev/null || fail "the agent has ended"
}

agent_settled() { gx status || ! kill -0 "$AGENT"; }

set_weight() {
    for service in $SERVICES; do gx set-weight "$service" "$1"; done
}

ask() {
    case "$1" in
        *:*) host="[$1]" source="fd00:20::$SOURCE" ;;
        *) host=$1 source="10.20.0.$SOURCE" ;;
    esac
    inside client curl -fsS -m 30 --interface "$source" "http://$host/${2:-}"
}

# answers VIP: in the order of the addresses: "v1 v2 v1 …"
answers() {
    for SOURCE in $SOURCES; do
        ask "$1" || echo lost
    done | tr '\n' ' '
}

all_from() {
    for vip in $VIPS; do
        found=$(answers "$vip")
        case " $found" in *" lost "*) fail "$vip: lost requests: $found" ;; esac
        [ "$(echo "$found" | tr ' ' '\n' | sort -u | tr -d '\n')" = "$1" ] || fail "$vip: wanted $1 only: $found"
    done
}

received() { inside "$1" awk -v "name=$2:" '$1 == name { print $3 }' /proc/net/dev; }
