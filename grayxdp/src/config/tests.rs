//! Whole files: what they mean, or each of their errors.

use grayxdp_common::weight::Weight;

use super::*;
use crate::decide::{
    controller::Analysis,
    schedule::{Growth, Millionths},
};

/// The example of the documentation.
const EXAMPLE: &str = r#"
[agent]
interfaces = ["eth0", "eth1"]        # each device that clients' or backends' packets arrive on
xdp_mode = "auto"                    # auto | native | generic
bpffs = "/sys/fs/bpf/grayxdp"
socket = "/run/grayxdp/agent.sock"
metrics = "127.0.0.1:9465"
state = "/var/lib/grayxdp/state.db"
max_flows = 1048576

[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"                     # tcp | udp
mode = "nat"
key = "source-ip"                    # source-ip | connection
shards = { method = "hash", count = 16 }
hash_seed = "any text"               # equal on every host of a fleet
v1 = { backends = [{ address = "10.0.1.10:8080", weight = 1 }] }
v2 = { backends = [{ address = "10.0.2.10:8080" }] }

[service.release]
schedule = { kind = "linear", from = 0, to = 100, step = 10, every = "30s" }
"#;

const LEAST: &str = r#"
[agent]
interfaces = ["eth0"]
[[service]]
name = "dns"
vip = "2001:db8::10"
port = 53
protocol = "udp"
hash_seed = "x"
v1 = { backends = [{ address = "[2001:db8:1::10]:53" }] }
[service.v2]
backends = [{ address = "[2001:db8:2::10]:53", weight = 1000 }]
"#;

fn weight(percent: f64) -> Weight {
    crate::percent::weight_from_percent(percent).expect("a weight")
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse("lb.toml", text)
}

/// The example with one piece of it replaced.
fn with(old: &str, new: &str) -> String {
    assert!(EXAMPLE.contains(old), "{old}");
    EXAMPLE.replace(old, new)
}

const SCHEDULE: &str = r#"{ kind = "linear", from = 0, to = 100, step = 10, every = "30s" }"#;

#[test]
fn the_example_means_this() {
    let config = parse(EXAMPLE).expect("valid");
    let backend =
        |address: &str| Pool { backends: vec![Backend { address: address.parse().expect("an address"), weight: 1 }] };
    let service = ServiceConfig {
        name: "web".to_owned(),
        vip: "203.0.113.10".parse().expect("an address"),
        port: 80,
        protocol: Protocol::Tcp,
        mode: Mode::Nat,
        key: Key::SourceIp,
        sharding: Sharding::Hash,
        shard_count: 16,
        hash_key: config.services[0].hash_key,
        udp_idle: Duration::from_secs(60),
        canary_port: None,
        pins: Vec::new(),
        when_empty: WhenEmpty::OtherVersion,
        maglev_slots: 4093,
        v1: backend("10.0.1.10:8080"),
        v2: backend("10.0.2.10:8080"),
        schedule: Schedule::Linear {
            from: weight(0.0),
            to: weight(100.0),
            step: weight(10.0),
            every: Duration::from_secs(30),
        },
        order: Order::Together,
        on_rollback: OnRollback::Keep,
        policy: Policy {
            analysis: Analysis { enabled: true, ..Policy::bare().analysis },
            rollback_window: Duration::from_secs(600),
            ..Policy::bare()
        },
        external: External::default(),
        health: None,
        observe: Observe::None,
        fuse: Some(Fuse { failures: 20, window: Duration::from_secs(10) }),
    };
    let agent = AgentConfig {
        interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
        xdp_mode: XdpMode::Auto,
        bpffs: "/sys/fs/bpf/grayxdp".into(),
        socket: "/run/grayxdp/agent.sock".into(),
        socket_group: None,
        metrics: "127.0.0.1:9465".parse().expect("an address"),
        state: "/var/lib/grayxdp/state.db".into(),
        max_flows: 1_048_576,
        source_ports: PortRange { first: 20_000, last: 60_999 },
    };
    let seconds = Duration::from_secs;
    let timeouts = Timeouts {
        tcp_half_open: seconds(10),
        tcp_established: seconds(3600),
        tcp_closing: seconds(10),
        udp: seconds(60),
    };
    assert_eq!(config, Config { agent, timeouts, services: vec![service] });
}

#[test]
fn what_is_left_out_has_the_defaults_of_the_example() {
    let (least, example) = (parse(LEAST).expect("valid"), parse(EXAMPLE).expect("valid"));
    assert_eq!(
        AgentConfig { interfaces: Vec::new(), ..least.agent },
        AgentConfig { interfaces: Vec::new(), ..example.agent }
    );
    let service = &least.services[0];
    assert_eq!((&service.mode, service.key, service.shard_count), (&Mode::Nat, Key::SourceIp, 16));
    assert_eq!((least.timeouts, &service.sharding), (example.timeouts, &Sharding::Hash));
    assert_eq!((service.udp_idle, &service.schedule), (Duration::from_secs(60), &Schedule::Manual));
    assert_eq!(service.pool(Version::V1).backends[0].weight, 1);
    assert_eq!(service.pool(Version::V2).backends[0].weight, 1000);
}

#[test]
fn every_kind_of_schedule_is_read() {
    let (from, to, every) = (weight(1.0), weight(100.0), Duration::from_secs(60));
    let exponential = |growth| Schedule::Exponential { from, to, growth, every };
    for (text, expected) in [
        (
            r#"{ kind = "step", weights = [0.01, 12.5, 100], every = "5m" }"#,
            Schedule::Step { weights: [0.01, 12.5, 100.0].map(weight).to_vec(), every: Duration::from_secs(300) },
        ),
        (
            r#"{ kind = "exponential", from = 1, to = 100, factor = 2, every = "1m" }"#,
            exponential(Growth::Factor(Millionths(2_000_000))),
        ),
        (
            r#"{ kind = "exponential", from = 1.0, to = 100, factor = 1.5, every = "60s" }"#,
            exponential(Growth::Factor(Millionths(1_500_000))),
        ),
        (
            r#"{ kind = "exponential", from = 1, to = 100, rate = 0.2, every = "60000ms" }"#,
            exponential(Growth::Rate(Millionths(200_000))),
        ),
        (
            r#"{ kind = "smooth", from = 0, to = 50.25, over = "10m" }"#,
            Schedule::Smooth { from: weight(0.0), to: weight(50.25), over: Duration::from_secs(600) },
        ),
        (r#"{ kind = "manual" }"#, Schedule::Manual),
    ] {
        let config = parse(&with(SCHEDULE, text)).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        assert_eq!(config.services[0].schedule, expected, "{text}");
    }
}

#[test]
fn a_schedule_may_be_a_table_of_its_own() {
    let text = with(
        &format!("schedule = {SCHEDULE}"),
        "[service.release.schedule]\nkind = \"step\"\nweights = [\n  1,\n  100,\n]\nevery = \"500ms\"\n",
    );
    assert_eq!(parse(&text).expect("valid").services[0].schedule.kind(), "step");
}

/// What is replaced in the example by what; then line and column of the only error, and parts of its text.
type Case = (&'static str, &'static str, (usize, usize), &'static [&'static str]);

const AGENT_CASES: &[Case] = &[
    (
        "max_flows = 1048576",
        "max_flow = 1048576",
        (9, 1),
        &["unknown key `max_flow`", "[agent]", "did you mean `max_flows`?"],
    ),
    ("max_flows = 1048576", "zebra = 1", (9, 1), &["unknown key `zebra`", "remove it", "`max_flows`"]),
    ("max_flows = 1048576", "max_flows = 1000", (9, 13), &["a whole number from 1024 to 16777216", "found `1000`"]),
    ("max_flows = 1048576", "max_flows = \"many\"", (9, 13), &["a whole number", "found `\"many\"`"]),
    (
        "interfaces = [\"eth0\", \"eth1\"]",
        "",
        (2, 1),
        &["`interfaces` is missing in [agent]", "add `interfaces = [\"eth0\"]`"],
    ),
    ("[\"eth0\", \"eth1\"]", "[]", (3, 14), &["a list of at least one interface", "found `[]`"]),
    ("[\"eth0\", \"eth1\"]", "\"eth0\"", (3, 14), &["a list of at least one interface", "found `\"eth0\"`"]),
    ("[\"eth0\", \"eth1\"]", "[\"eth0\", \"eth0\"]", (3, 23), &["interface `eth0` is listed twice"]),
    ("[\"eth0\", \"eth1\"]", "[\"eth0\", \"a/b\"]", (3, 23), &["interface 2 in `interfaces`", "`ip link`"]),
    ("[\"eth0\", \"eth1\"]", "[\"sixteen-letters-\"]", (3, 15), &["the name of a network interface"]),
    ("\"auto\"", "\"natve\"", (4, 12), &["one of `auto`, `native`, `generic`", "did you mean \"native\"?"]),
    ("\"/sys/fs/bpf/grayxdp\"", "\"bpf\"", (5, 9), &["an absolute path", "found `\"bpf\"`"]),
    ("\"127.0.0.1:9465\"", "\":9465\"", (7, 11), &["an IP address and a port"]),
    ("\"127.0.0.1:9465\"", "9465", (7, 11), &["an IP address and a port", "found `9465`"]),
    ("[agent]", "[agnt]", (1, 1), &["`agent` is missing in the file"]),
    (
        "max_flows = 1048576",
        "source_ports = \"60999-20000\"",
        (9, 16),
        &["a range of ports from 1024 to 65535", "\"20000-60999\""],
    ),
    ("max_flows = 1048576", "source_ports = \"80-90\"", (9, 16), &["a range of ports from 1024"]),
    ("max_flows = 1048576", "source_ports = 20000", (9, 16), &["a range of ports", "found `20000`"]),
];

const SERVICE_CASES: &[Case] = &[
    ("name = \"web\"", "", (11, 1), &["`name` is missing in this service", "add `name = \"web\"`"]),
    ("name = \"web\"", "name = \"Web\"", (12, 8), &["lower-case letters", "found `\"Web\"`"]),
    ("\"203.0.113.10\"", "\"203.0.113\"", (13, 7), &["`vip` of service `web`: expected an IP address"]),
    ("\"203.0.113.10\"", "\"127.0.0.1\"", (13, 7), &["unicast address", "loopback"]),
    ("\"203.0.113.10\"", "\"224.0.0.1\"", (13, 7), &["multicast"]),
    ("port = 80\n", "port = 0\n", (14, 8), &["a port from 1 to 65535", "found `0`"]),
    ("port = 80\n", "port = 80000\n", (14, 8), &["a port from 1 to 65535"]),
    ("port = 80\n", "port = -1\n", (14, 8), &["a port from 1 to 65535"]),
    ("protocol = \"tcp\"", "protocol = \"sctp\"", (15, 12), &["one of `tcp`, `udp`", "found `\"sctp\"`"]),
    (
        "mode = \"nat\"",
        "mode = \"dnat\"",
        (16, 8),
        &["one of `nat`, `full-nat`, `dsr`, `ipip`", "did you mean \"nat\"?"],
    ),
    (
        "mode = \"nat\"",
        "mode = \"full-nat\"",
        (11, 1),
        &["`source_addresses` is missing", "source_addresses = [\"10.0.0.5\"]"],
    ),
    (
        "mode = \"nat\"",
        "source_addresses = [\"10.0.0.5\"]",
        (16, 20),
        &["`source_addresses` of service `web` means nothing: the mode is `nat`", "`mode = \"full-nat\"`"],
    ),
    ("mode = \"nat\"", "outer_source = \"172.16.0.0/16\"", (16, 16), &["means nothing", "`mode = \"ipip\"`"]),
    ("count = 16", "count = 16, default = \"x\"", (18, 41), &["unknown key `default`", "`count`"]),
    (
        "key = \"source-ip\"",
        "canary_port = 80",
        (17, 15),
        &["a port that nobody else has", "service `web` is at 203.0.113.10:80 (tcp)"],
    ),
    ("key = \"source-ip\"", "canary_port = 0", (17, 15), &["a port from 1 to 65535"]),
    ("key = \"source-ip\"", "when_empty = \"v1\"", (17, 14), &["one of `other-version`, `drop`"]),
    (
        "key = \"source-ip\"",
        "maglev_slots = 4096",
        (17, 16),
        &["one of `1021`, `4093`, `16381`, `65537`", "found `4096`"],
    ),
    (
        "key = \"source-ip\"",
        "pins = [{ version = \"v2\" }]",
        (17, 9),
        &["pin 1 in `pins`", "either `source` or `dscp`", "has neither"],
    ),
    ("key = \"source-ip\"", "pins = [{ dscp = 1, source = \"10.0.0.1\", version = \"v2\" }]", (17, 9), &["has both"]),
    ("key = \"source-ip\"", "pins = [{ dscp = 64, version = \"v2\" }]", (17, 18), &["a whole number from 0 to 63"]),
    (
        "key = \"source-ip\"",
        "pins = [{ dscp = 1 }]",
        (17, 9),
        &["`version` is missing in pin 1", "add `version = \"v2\"`"],
    ),
    ("key = \"source-ip\"", "pins = [{ dscp = 1, version = \"v3\" }]", (17, 31), &["one of `v1`, `v2`"]),
    (
        "key = \"source-ip\"",
        "pins = [{ dscp = 1, version = \"v1\" }, { dscp = 1, version = \"v2\" }]",
        (17, 39),
        &["a pin for dscp 1 is already in the list"],
    ),
    (
        "key = \"source-ip\"",
        "pins = [{ source = \"10.0.0.1/8\", version = \"v2\" }]",
        (17, 20),
        &["do you mean 10.0.0.0/8?"],
    ),
    (
        "key = \"source-ip\"",
        "pins = [{ source = \"2001:db8::/32\", version = \"v2\" }]",
        (17, 20),
        &["IPv6", "the VIP IPv4"],
    ),
    ("key = \"source-ip\"", "key = \"source_ip\"", (17, 7), &["did you mean \"source-ip\"?"]),
    ("count = 16", "count = 0", (18, 37), &["a whole number from 1 to 4096"]),
    ("count = 16", "number = 16", (18, 29), &["unknown key `number` in `shards` of service `web`"]),
    (
        "method = \"hash\"",
        "method = \"hashed\"",
        (18, 21),
        &["one of `hash`, `random`, `range`", "did you mean \"hash\"?"],
    ),
    ("method = \"hash\"", "method = \"random\"", (18, 31), &["unknown key `count`", "known here: `method`"]),
    ("hash_seed = \"any text\"", "", (11, 1), &["`hash_seed` is missing in service `web`"]),
    ("hash_seed = \"any text\"", "hash_seed = \"\"", (19, 13), &["a text"]),
    ("key = \"source-ip\"", "udp_idle = \"30s\"", (17, 12), &["`udp_idle` of service `web` means nothing"]),
    ("v2 = { backends = [{ address = \"10.0.2.10:8080\" }] }", "", (11, 1), &["`v2` is missing", "add `v2 = {"]),
    ("[{ address = \"10.0.2.10:8080\" }]", "[]", (21, 19), &["a list of at least one backend"]),
    ("{ address = \"10.0.2.10:8080\" }", "\"10.0.2.10:8080\"", (21, 20), &["backend 1 in", "expected a table"]),
    (
        "{ address = \"10.0.2.10:8080\" }",
        "{ adress = \"10.0.2.10:8080\", address = \"10.0.2.10:8080\" }",
        (21, 22),
        &["did you mean `address`?"],
    ),
    ("\"10.0.2.10:8080\"", "\"10.0.2.10\"", (21, 32), &["an IP address and a port"]),
    ("\"10.0.2.10:8080\"", "\"10.0.2.10:0\"", (21, 32), &["a port from 1 to 65535"]),
    ("\"10.0.2.10:8080\"", "\"[2001:db8::1]:80\"", (21, 32), &["IPv6", "the VIP of service `web` is IPv4"]),
    ("\"10.0.2.10:8080\"", "\"10.0.1.10:8080\"", (21, 32), &["in v2 of service `web` and in v1 of service `web`"]),
    ("\"10.0.2.10:8080\"", "\"203.0.113.10:80\"", (21, 32), &["is where clients meet service `web`"]),
    ("weight = 1 }", "weight = 0 }", (20, 59), &["a whole number from 1 to 1000"]),
    ("weight = 1 }", "weight = 1001 }", (20, 59), &["a whole number from 1 to 1000"]),
    ("[service.release]", "[service.relase]", (23, 10), &["did you mean `release`?"]),
    ("[service.release]", "[service.release]\norder = \"one\"", (24, 9), &["one of `together`, `one-by-one`"]),
    ("[service.release]", "[service.release]\non_rollback = \"cut\"", (24, 15), &["one of `keep`, `sever`"]),
    ("[agent]", "timeouts.udp = \"9h\"\n[agent]", (2, 16), &["`udp` of [timeouts]", "from 1s to 8h", "found `\"9h\"`"]),
    ("[agent]", "timeouts.tcp_half_open = \"1500ms\"\n[agent]", (2, 26), &["in whole seconds"]),
    ("[agent]", "timeouts.tcp = \"9s\"\n[agent]", (2, 10), &["unknown key `tcp` in [timeouts]", "`tcp_closing`"]),
    ("[[service]]", "[[services]]", (11, 3), &["unknown key `services` in the file", "did you mean `service`?"]),
];

const SCHEDULE_CASES: &[Case] = &[
    (SCHEDULE, "\"linear\"", (24, 12), &["`schedule` of", "expected a table", "found `\"linear\"`"]),
    (
        "kind = \"linear\", ",
        "",
        (24, 12),
        &["`kind` is missing", "`linear`, `step`, `exponential`, `smooth`, `manual`"],
    ),
    ("\"linear\"", "\"liner\"", (24, 21), &["did you mean \"linear\"?"]),
    ("\"linear\"", "\"manual\"", (24, 31), &["unknown key `from`"]),
    ("to = 100", "to = 100.01", (24, 46), &["a percent from 0 to 100 with at most two decimals", "found `100.01`"]),
    ("to = 100", "to = 12.345", (24, 46), &["at most two decimals", "found `12.345`", "round it"]),
    ("to = 100", "to = \"100%\"", (24, 46), &["a percent", "no quotes"]),
    ("from = 0", "from = -1", (24, 38), &["a percent from 0 to 100"]),
    ("from = 0, to = 100", "from = 60, to = 50", (24, 38), &["`from` (60.00 %) is above `to` (50.00 %)"]),
    ("step = 10", "step = 0", (24, 58), &["expected more than 0", "manual"]),
    ("step = 10, ", "", (24, 12), &["`step` is missing", "add `step = 10`"]),
    ("every = \"30s\"", "every = 30", (24, 70), &["a duration", "found `30`", "add a unit, in quotes: \"30s\""]),
    ("every = \"30s\"", "every = \"30 parsecs\"", (24, 70), &["a duration", "\"500ms\""]),
    ("every = \"30s\"", "every = \"1ms\"", (24, 70), &["from 10ms to 365days"]),
    (
        SCHEDULE,
        r#"{ kind = "step", weights = [1, 30, 30], every = "5m" }"#,
        (24, 47),
        &["more than the 30.00 % before it"],
    ),
    (SCHEDULE, r#"{ kind = "step", weights = [], every = "5m" }"#, (24, 39), &["a list of at least one weight"]),
    (
        SCHEDULE,
        r#"{ kind = "smooth", from = 0, to = 9, every = "5m", over = "1m" }"#,
        (24, 49),
        &["unknown key `every`", "`over`"],
    ),
    (
        SCHEDULE,
        r#"{ kind = "exponential", from = 0, to = 9, factor = 2, every = "5m" }"#,
        (24, 43),
        &["more than 0", "factor"],
    ),
    (
        SCHEDULE,
        r#"{ kind = "exponential", from = 1, to = 9, every = "5m" }"#,
        (24, 12),
        &["either `factor` or `rate`", "has neither"],
    ),
    (
        SCHEDULE,
        r#"{ kind = "exponential", from = 1, to = 9, factor = 2, rate = 0.1, every = "5m" }"#,
        (24, 12),
        &["has both"],
    ),
    (
        SCHEDULE,
        r#"{ kind = "exponential", from = 1, to = 9, factor = 1, every = "5m" }"#,
        (24, 63),
        &["a factor from 1.01"],
    ),
    (
        SCHEDULE,
        r#"{ kind = "exponential", from = 1, to = 9, rate = 20, every = "5m" }"#,
        (24, 61),
        &["a fraction from 0.01 to 1"],
    ),
];

const SHARDS: &str = r#"{ method = "hash", count = 16 }"#;

const SHARD_CASES: &[Case] = &[
    (
        SHARDS,
        r#"{ method = "range", ranges = { in = ["192.0.2.1 to 192.0.2.9"] } }"#,
        (18, 47),
        &["a network, an address, or a range of addresses", "\"192.0.2.1-192.0.2.9\""],
    ),
    (SHARDS, r#"{ method = "range" }"#, (18, 10), &["`ranges` is missing", "add `ranges = {"]),
    (SHARDS, r#"{ method = "range", ranges = {} }"#, (18, 39), &["1 to 4095 named shards, found 0"]),
    (
        SHARDS,
        r#"{ method = "range", ranges = ["10.0.0.0/8"] }"#,
        (18, 39),
        &["expected a table", "ranges = { internal"],
    ),
    (SHARDS, r#"{ method = "range", ranges = { In = ["10.0.0.0/8"] } }"#, (18, 46), &["lower-case", "found `In`"]),
    (SHARDS, r#"{ method = "range", ranges = { in = [] } }"#, (18, 46), &["a list of at least one range"]),
    (
        SHARDS,
        r#"{ method = "range", ranges = { in = ["10.0.0.9-10.0.0.1"] } }"#,
        (18, 47),
        &["the lower address first"],
    ),
    (SHARDS, r#"{ method = "range", ranges = { in = ["10.0.0.9-"] } }"#, (18, 47), &["first and last address"]),
    (
        SHARDS,
        r#"{ method = "range", ranges = { in = ["10.0.0.1/8"] } }"#,
        (18, 47),
        &["range 1 in `in`", "do you mean 10.0.0.0/8?"],
    ),
    (
        SHARDS,
        r#"{ method = "range", ranges = { a = ["10.0.0.0/8", "192.0.2.0/31"], b = ["192.0.2.0-192.0.2.1"] } }"#,
        (18, 82),
        &["192.0.2.0/31 is in shard `a` and in shard `b`", "a longer prefix"],
    ),
    (
        SHARDS,
        r#"{ method = "range", default = "in", ranges = { in = ["10.0.0.0/8"] } }"#,
        (18, 62),
        &["`in` is the name of the shard for everyone else"],
    ),
    (
        SHARDS,
        r#"{ method = "range", default = "", ranges = { in = ["10.0.0.0/8"] } }"#,
        (18, 40),
        &["a name of 1 to 63"],
    ),
    (
        SCHEDULE,
        "{ kind = \"manual\" }\norder = \"one-by-one\"",
        (25, 9),
        &["`order`", "means nothing: a manual schedule moves no shard", "--shard"],
    ),
];

const MODE: &str = "mode = \"nat\"";

const MODE_CASES: &[Case] = &[
    (MODE, "mode = \"full-nat\"\nsource_addresses = []", (17, 20), &["a list of at least one source address"]),
    (MODE, "mode = \"full-nat\"\nsource_addresses = [\"203.0.113.10\"]", (17, 21), &["is the VIP"]),
    (MODE, "mode = \"full-nat\"\nsource_addresses = [\"2001:db8::5\"]", (17, 21), &["the backends' family, IPv4"]),
    (MODE, "mode = \"full-nat\"\nsource_addresses = [\"10.0.0.5\", \"10.0.0.5\"]", (17, 33), &["listed twice"]),
    (MODE, "mode = \"full-nat\"\nsource_addresses = [\"10.0.0.5:80\"]", (17, 21), &["expected an IP address"]),
    (
        MODE,
        "mode = \"full-nat\"\nouter_source = \"172.16.0.0/16\"\nsource_addresses = [\"10.0.0.5\"]",
        (17, 16),
        &["means nothing: the mode is `full-nat`"],
    ),
    // Neither backend has the service's port: each is told.
    (MODE, "mode = \"dsr\"", (20, 32), &["an IP address, or one with port 80", "mode `dsr` does not rewrite ports"]),
    (MODE, "mode = \"ipip\"", (21, 32), &["an IP address, or one with port 80", "mode `ipip` does not rewrite ports"]),
];

#[test]
fn backends_of_modes_that_rewrite_no_ports_are_addresses() {
    for (mode, address, expected) in [
        ("dsr", "10.0.2.10", Some("10.0.2.10:80")),
        ("dsr", "10.0.2.10:80", Some("10.0.2.10:80")),
        ("dsr", "2001:db8::1", None),
        ("ipip", "10.0.2.10", Some("10.0.2.10:80")),
        ("ipip", "2001:db8::1", Some("[2001:db8::1]:80")),
        ("ipip", "[2001:db8::1]", Some("[2001:db8::1]:80")),
        ("ipip", "[2001:db8::1]:80", Some("[2001:db8::1]:80")),
        ("ipip", "[2001:db8::1]:81", None),
        ("ipip", "10.0.2", None),
        ("ipip", "127.0.0.1", None),
    ] {
        let text = with(MODE, &format!("mode = \"{mode}\""))
            .replace("10.0.1.10:8080", "10.0.1.10")
            .replace("10.0.2.10:8080", address);
        let found = parse(&text).ok().map(|config| config.services[0].v2.backends[0].address.to_string());
        assert_eq!(found.as_deref(), expected, "{mode} {address}");
    }
    let service = &parse(EXAMPLE).expect("valid").services[0];
    assert_eq!(service.backend_address("10.0.2.11:81"), Ok(SocketAddr::from(([10, 0, 2, 11], 81))));
    for (text, part) in
        [("10.0.2.11", "an IP address and a port"), ("[2001:db8::1]:80", "the VIP's family, IPv4"), ("x", "found `x`")]
    {
        let error = service.backend_address(text).expect_err(text).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn everything_that_has_a_default_can_be_said() {
    let text = with(MODE, "mode = \"ipip\"\nouter_source = \"10.9.0.0/24\"\nouter_source_v6 = \"fd00::/32\"")
        .replace(":8080", "")
        .replace("[agent]", "[timeouts]\ntcp_half_open = \"3s\"\ntcp_established = \"8h\"\ntcp_closing = \"5s\"\nudp = \"1s\"\n[agent]\nsource_ports = \"1024-65535\"")
        .replace(
            "key = \"source-ip\"",
            "canary_port = 8081\nwhen_empty = \"drop\"\nmaglev_slots = 65_537\n\
             pins = [{ source = \"198.51.100.0/24\", version = \"v2\" }, { dscp = 46, version = \"v1\" }]",
        )
        .replace(SHARDS, r#"{ method = "range", default = "others", ranges = { z = ["10.0.0.0/8", "192.0.2.1-192.0.2.3"], a = ["10.1.0.0/16", "2001:db8::/48"] } }"#)
        + "order = \"one-by-one\"\non_rollback = \"sever\"\n";
    let config = parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
    let service = &config.services[0];
    let network = |text: &str| text.parse().expect("a network");
    assert_eq!(
        service.mode,
        Mode::Ipip { outer_source: network("10.9.0.0/24"), outer_source_v6: network("fd00::/32") }
    );
    assert_eq!((service.canary_port, service.when_empty, service.maglev_slots), (Some(8081), WhenEmpty::Drop, 65_537));
    assert_eq!(
        service.pins.iter().map(|pin| pin.rule.to_string()).collect::<Vec<_>>(),
        ["source 198.51.100.0/24", "dscp 46"]
    );
    assert_eq!((service.order, service.on_rollback, service.shard_count), (Order::OneByOne, OnRollback::Sever, 3));
    // The order of the file, not of the alphabet; ranges are networks.
    assert_eq!(
        service.shards().to_string(),
        "range others; z 10.0.0.0/8 192.0.2.1/32 192.0.2.2/31; a 10.1.0.0/16 2001:db8::/48"
    );
    assert_eq!(config.timeouts.tcp_established, Duration::from_secs(8 * 3600));
    assert_eq!(
        (service.udp_idle, config.agent.source_ports),
        (Duration::from_secs(1), PortRange { first: 1024, last: 65_535 })
    );
    let random = parse(&with(SHARDS, "{ method = \"random\" }")).expect("valid");
    assert_eq!((&random.services[0].sharding, random.services[0].shard_count), (&Sharding::Random, 1));
}

#[test]
fn services_share_a_list_of_source_addresses_or_none_of_it() {
    let service = |number: u8, sources: &str| {
        EXAMPLE[EXAMPLE.find("[[service]]").expect("there")..]
            .replace("\"web\"", &format!("\"web-{number}\""))
            .replace("port = 80", &format!("port = 8{number}"))
            .replace(":8080", &format!(":90{number:02}"))
            .replace(MODE, &format!("mode = \"full-nat\"\nsource_addresses = {sources}"))
    };
    for (one, two, part) in [
        (r#"["10.0.0.5", "10.0.0.6"]"#, r#"["10.0.0.5", "10.0.0.6"]"#, None),
        (r#"["10.0.0.5"]"#, r#"["10.0.0.6"]"#, None),
        (r#"["10.0.0.5", "10.0.0.6"]"#, r#"["10.0.0.6"]"#, Some("10.0.0.6 is in both")),
    ] {
        let text = format!("[agent]\ninterfaces = [\"eth0\"]\n{}{}", service(1, one), service(2, two));
        let errors = parse(&text).err().map(|errors| errors.to_string());
        assert_eq!(errors.is_some(), part.is_some(), "{errors:?}");
        assert!(errors.unwrap_or_default().contains(part.unwrap_or_default()));
    }
}

#[test]
fn a_canary_port_is_nobody_elses() {
    let second = |port: u16, address: &str| {
        format!(
            "[[service]]\nname = \"dns\"\nvip = \"203.0.113.10\"\nport = {port}\nprotocol = \"tcp\"\nhash_seed = \"x\"\nv1.backends = [{{ address = \"{address}\" }}]\nv2.backends = [{{ address = \"10.0.4.1:53\" }}]\n"
        )
    };
    let first = with("key = \"source-ip\"", "canary_port = 8081");
    assert!(parse(&(first.clone() + &second(53, "10.0.3.1:53"))).is_ok());
    for (text, part) in [
        (second(8081, "10.0.3.1:53"), "service `dns` is at 203.0.113.10:8081 (tcp)"),
        (second(53, "203.0.113.10:8081"), "is where clients meet the canary port of service `web`"),
    ] {
        let errors = parse(&(first.clone() + &text)).expect_err(part).to_string();
        assert!(errors.contains(part), "{errors}");
    }
}

#[test]
fn each_error_has_a_place_and_says_what_to_do() {
    let mut wrong = Vec::new();
    for (old, new, place, parts) in
        AGENT_CASES.iter().chain(SERVICE_CASES).chain(SCHEDULE_CASES).chain(SHARD_CASES).chain(MODE_CASES)
    {
        let errors = parse(&with(old, new)).expect_err(new);
        let at_place = errors.errors().iter().find(|error| (error.line, error.column) == *place);
        let whole = at_place.map(|error| format!("{}; {}", error.message, error.help)).unwrap_or_default();
        // A misspelt key is both unknown and missing, and each kind of schedule has keys of its own.
        let several = new.contains("[agnt]") || new.contains("[[services]]") || new.contains("manual");
        let several = several || ["mode = \"dsr\"", "mode = \"ipip\""].contains(new);
        if !parts.iter().all(|part| whole.contains(part)) || (errors.errors().len() != 1 && !several) {
            wrong.push(format!("{new}: wanted {place:?} {parts:?}, found\n{errors}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_text() {
    let text = r#"
[agent]
interfaces = ["eth0"]
xdp_mode = "fast"
max_flows = 1

[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
hash_seed = "x"
v1 = { backends = [{ address = "10.0.1.10:8080" }, { address = "10.0.1.10:8080" }] }
v2 = { backends = [{ address = "10.0.2.10" }] }

[[service]]
name = "web"
vip = "203.0.113.10"
port = 80
protocol = "tcp"
hash_seed = "x"
colour = "blue"
v1 = { backends = [{ address = "10.0.3.10:8080" }] }
v2 = { backends = [{ address = "10.0.1.10:8080" }] }
"#;
    let errors = parse(text).expect_err("many errors");
    let lines: Vec<usize> = errors.errors().iter().map(|error| error.line).collect();
    assert_eq!(lines, [4, 5, 13, 14, 17, 18, 22, 24], "{errors}");
    assert!(errors.to_string().starts_with("lb.toml:4:12: `xdp_mode` of [agent]: expected one of"), "{errors}");
    assert_eq!(errors.to_string().lines().count(), lines.len(), "{errors}");
}

#[test]
fn as_many_backends_as_the_maps_hold_are_taken_and_one_more_is_refused() {
    let pool = |service: usize, count: usize| -> String {
        let address = |nth: usize| format!("{{ address = \"10.{service}.{}.{}:80\" }}", nth / 250, 1 + nth % 250);
        (0..count).map(address).collect::<Vec<_>>().join(", ")
    };
    let text = |last: usize| -> String {
        let mut text = String::from("[agent]\ninterfaces = [\"eth0\"]\n");
        for service in 0..33 {
            let count = if service == 32 { last } else { 249 };
            text += &format!(
                "[[service]]\nname = \"s{service}\"\nvip = \"203.0.113.10\"\nport = {}\nprotocol = \"tcp\"\n\
                 hash_seed = \"x\"\nv1 = {{ backends = [{}] }}\n\
                 v2 = {{ backends = [{{ address = \"10.200.0.{}:80\" }}] }}\n",
                1000 + service,
                pool(service, count),
                1 + service
            );
        }
        text
    };
    // 32 services with 250 each, and one with the rest.
    parse(&text(8191 - 8000 - 1)).expect("as many as there may be");
    let errors = parse(&text(8191 - 8000)).expect_err("one too many");
    let message = &errors.errors()[0].message;
    assert!(message.contains("8192 backends over all services: at most 8191 are possible"), "{message}");
}

#[test]
fn the_same_port_may_serve_both_protocols() {
    let service = |name: &str, protocol: &str| {
        EXAMPLE[EXAMPLE.find("[[service]]").expect("there")..]
            .replace("\"web\"", &format!("\"{name}\""))
            .replace("\"tcp\"", &format!("\"{protocol}\""))
    };
    let agent = "[agent]\ninterfaces = [\"eth0\"]\n";
    let text = format!("{agent}{}{}", service("dns", "udp"), service("dns-tcp", "tcp"));
    assert_eq!(parse(&text).expect("valid").services.len(), 2);
}

#[test]
fn what_is_not_toml_is_said_to_be_so() {
    for (text, line) in
        [("[agent\n", 1), ("[agent]\ninterfaces = [\"eth0\"\n", 2), ("[agent]\n[agent]\n", 2), ("a = 1 2", 1)]
    {
        let errors = parse(text).expect_err(text);
        let first = &errors.errors()[0];
        assert!(first.message.contains("not valid TOML"), "{errors}");
        assert!(first.line >= line, "{errors}");
    }
    assert!(parse("").expect_err("empty").errors()[0].message.contains("`agent` is missing"));
}

#[test]
fn the_report_shows_file_and_line() {
    let errors = parse(&with("port = 80", "port = 0")).expect_err("a bad port");
    let mut report = String::new();
    let theme = miette::GraphicalTheme::unicode_nocolor();
    miette::GraphicalReportHandler::new_themed(theme)
        .render_report(&mut report, &errors.errors()[0])
        .expect("a String takes all");
    for part in ["lb.toml:14:8", "port = 0", "expected a port", "help: "] {
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn the_key_of_a_service_depends_on_name_and_seed() {
    let key = |text: &str| parse(text).expect("valid").services[0].hash_key;
    let base = key(EXAMPLE);
    assert_ne!(base, key(&with("\"any text\"", "\"other text\"")));
    assert_ne!(base, key(&with("\"web\"", "\"shop\"")));
    assert_eq!(base, key(&with("port = 80", "port = 81")));
}

#[test]
fn fuses_and_what_is_observed_are_checked() {
    let with = |text: &str| parse(&format!("{EXAMPLE}{text}"));
    let fuse = |text: &str| with(&format!("\n[service.fuse]\n{text}")).map(|config| config.services[0].fuse);
    let seconds = Duration::from_secs;
    assert_eq!(fuse("failures = 5").expect("valid"), Some(Fuse { failures: 5, window: seconds(10) }));
    assert_eq!(fuse("window = \"1m\"").expect("valid"), Some(Fuse { failures: 20, window: seconds(60) }));
    assert_eq!(fuse("failures = 0").expect("valid"), None);
    for wrong in ["failures = -1", "failures = \"many\"", "window = \"1s\"", "window = \"2h\"", "windows = \"10s\""] {
        assert!(fuse(wrong).is_err(), "{wrong}");
    }
    let observe = |protocol: &str, observe: &str| {
        let text =
            EXAMPLE.replace("protocol = \"tcp\"", &format!("protocol = \"{protocol}\"\nobserve = \"{observe}\""));
        parse(&text).map(|config| config.services[0].observe)
    };
    assert_eq!(observe("tcp", "http1").expect("valid"), Observe::Http1);
    assert_eq!(observe("udp", "dns").expect("valid"), Observe::Dns);
    for (protocol, wrong) in [("udp", "tls"), ("udp", "http1"), ("tcp", "http")] {
        assert!(observe(protocol, wrong).is_err(), "{protocol} {wrong}");
    }
}

/// Every line of the packaged config that is a comment is a key as it is without it, or another one that is possible.
#[test]
fn the_packaged_config_and_all_its_comments_are_valid() {
    let packaged = include_str!("../../../packaging/grayxdp.toml");
    let config = parse(packaged).unwrap_or_else(|errors| panic!("{errors}"));
    let key = |line: &str| {
        let code = line.strip_prefix("# ")?;
        let (key, _) = code.split_once(" = ").filter(|(key, _)| !key.contains(' '))?;
        Some((key.to_owned(), code.split(" #").next().unwrap_or(code).trim().to_owned()))
    };
    let (mut seen, mut defaults) = (std::collections::BTreeSet::new(), Vec::new());
    // What is a table of its own comes last, the checks first.
    let (rest, check) = packaged.split_once("# [service.health]\n").expect("there are checks");
    let (_, after) = check.split_once("# [[service.release.query]]\n").expect("queries and webhooks come last");
    ["query", "webhook", "[[service.release.webhook]]"].iter().for_each(|key| assert!(after.contains(key)));
    let code = |line: &&str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let check: String =
        check.lines().filter_map(|line| line.strip_prefix("# ")).filter(code).map(|line| format!("{line}\n")).collect();
    let checked =
        parse(&format!("{rest}[service.health]\n{check}")).unwrap_or_else(|errors| panic!("{errors}\n{check}"));
    assert!(checked.services.iter().all(|service| service.health.is_some()));
    let external = checked.services.last().map(|service| &service.external).expect("a service");
    assert_eq!((external.queries.len(), external.webhooks.len()), (1, 1));
    seen.extend(["health", "query", "webhook"].map(str::to_owned));
    for line in rest.lines() {
        // Only one `mode`, `shards` or `schedule` at a time: the first is the default.
        match key(line) {
            Some((key, code)) => {
                let of_a_mode = ["source_addresses", "outer_source", "outer_source_v6", "method", "default", "ranges"];
                let first = seen.insert(key.clone()) && !of_a_mode.contains(&key.as_str()) && key != "schedule";
                let has_no_default = [
                    "socket_group",
                    "canary_port",
                    "pins",
                    "udp_idle",
                    "max_step",
                    "gates",
                    "progress_deadline",
                    "max_error_rate",
                    "max_p99",
                    "freeze_after",
                ]
                .contains(&key.as_str());
                if first && !has_no_default {
                    defaults.push(code);
                }
            }
            None if line == "# [timeouts]" => defaults.push("[timeouts]".to_owned()),
            None if line == "# [service.fuse]" => {
                seen.insert("fuse".to_owned());
                defaults.push("[service.fuse]".to_owned());
            }
            None if line == "# [service.release.analysis]" => {
                seen.insert("analysis".to_owned());
                defaults.push("[service.release.analysis]".to_owned());
            }
            None => defaults.push(line.to_owned()),
        }
    }
    assert_eq!(
        parse(&defaults.join("\n")).unwrap_or_else(|errors| panic!("{errors}")),
        config,
        "{}",
        defaults.join("\n")
    );
    for service_key in service::KEYS
        .iter()
        .chain(release::KEYS)
        .chain(policy::ANALYSIS_KEYS)
        .filter(|key| !["name", "vip", "port", "protocol", "hash_seed", "v1", "v2", "release"].contains(*key))
    {
        assert!(seen.contains(*service_key), "{service_key} is not explained");
    }
}
