# HTTP through the agent, attached natively, in both families: the weight decides, and a client stays where it is.
topology
serve
export RUST_LOG=info,grayxdp=debug
agent

# The verifier gives up after a million instructions, and older ones look at more of them.
verified=$(sed -n 's/.*verified_instructions=\([0-9]*\).*/\1/p' /tmp/agent.log)
[ "${verified:-1000000}" -le 500000 ] || fail "instructions to verify, of at most 500000: ${verified:-not told}"
ip -n lb link show dev to-client | grep -qw xdp || fail "no native XDP: $(ip -n lb link show dev to-client)"
all_from v1
set_weight 100
all_from v2
set_weight 50
for vip in "$VIP4" "$VIP6"; do
    found=$(answers "$vip")
    for version in v1 v2; do
        case " $found" in *" $version "*) ;; *) fail "$vip: at 50 % nobody got $version: $found" ;; esac
    done
    again=$(answers "$vip")
    [ "$found" = "$again" ] || fail "$vip: clients moved at a constant weight: $found, then $again"
done
gx rollback web4
gx rollback web6
all_from v1
