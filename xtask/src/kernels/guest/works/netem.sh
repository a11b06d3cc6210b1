# A download over a link that delays, drops and reorders goes on while the weight moves away under it.
topology
serve
agent
dd if=/dev/urandom of=/tmp/v1/file bs=1024 count=400 2>/dev/null
wanted=$(md5sum </tmp/v1/file)
inside client tc qdisc add dev eth0 root netem delay 10ms 4ms loss 1%
inside lb tc qdisc add dev to-client root netem delay 5ms || fail "no netem on a device with XDP"
inside v1 tc qdisc add dev eth0 root netem delay 5ms 3ms loss 1% reorder 10% rate 1mbit

for vip in "$VIP4" "$VIP6"; do
    set_weight 0
    ask "$vip" file >/tmp/got &
    download=$!
    sleep 1
    set_weight 100
    [ "$(ask "$vip")" = v2 ] || fail "$vip: a new connection did not go to v2"
    kill -0 "$download" 2>/dev/null || fail "$vip: the download was over before the weight moved: make the file bigger"
    wait "$download" || fail "$vip: the download broke"
    [ "$(md5sum </tmp/got)" = "$wanted" ] || fail "$vip: the download differs: $(wc -c </tmp/got) bytes"
done
