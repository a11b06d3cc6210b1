# Links that delay, lose, double and reorder packets: every request is answered, by the version that the weight says.
topology
serve
agent
for host in client v1 v2; do
    inside "$host" tc qdisc add dev eth0 root netem delay 10ms 4ms loss 4% duplicate 4% reorder 10%
done

SOURCES="1 2 3"
all_from v1
set_weight 50
for vip in $VIPS; do
    found=$(answers "$vip")
    case " $found" in *" lost "*) fail "$vip: lost requests: $found" ;; esac
    again=$(answers "$vip")
    [ "$found" = "$again" ] || fail "$vip: clients moved at a constant weight: $found, then $again"
done
set_weight 100
all_from v2
