//! The status as text: one block a service, for eyes that are tired.

use std::fmt::Write as _;

use super::print::{self, Align};
use crate::agent::shapes::{AgentStatus, Counters, Flows, PinsStatus, ServiceStatus, ShardStatus, WaitStatus};

/// Names of the columns: active flows, and counters, as [`cells`] fills them.
const COLUMNS: [&str; 8] =
    ["active", "new flows", "packets in", "bytes in", "packets out", "bytes out", "flow misses", "untracked"];

/// All of it; ends with a line break.
pub(crate) fn status(status: &AgentStatus) -> String {
    let interfaces: Vec<String> =
        status.interfaces.iter().map(|interface| format!("{} ({})", interface.name, interface.mode)).collect();
    let mut text = format!(
        "agent {}, pid {}, up {}, on {}\n",
        status.version,
        status.pid,
        length(status.uptime_s),
        if interfaces.is_empty() { "no interface".to_owned() } else { interfaces.join(", ") }
    );
    for each in &status.services {
        text.push('\n');
        text.push_str(&service(each));
    }
    text
}

/// What a command did, as a sentence; a second one where it is in danger.
pub(crate) fn change(before: &ServiceStatus, after: &ServiceStatus) -> String {
    let ServiceStatus { name, weight, state, .. } = after;
    let text = if (before.weight - weight).abs() < f64::EPSILON {
        format!("{name}: v2 {weight:.2} % ({state})\n")
    } else {
        format!("{name}: v2 {:.2} % → {weight:.2} % ({state})\n", before.weight)
    };
    text + &warning(after)
}

/// What a command did to pins or backends.
pub(crate) fn changed(after: &ServiceStatus, sentence: &str) -> String {
    format!("{}: {sentence}\n", after.name) + &warning(after)
}

fn warning(service: &ServiceStatus) -> String {
    service.warning.as_ref().map_or(String::new(), |warning| format!("warning: {warning}\n"))
}

/// The pins of a service as a table.
pub(crate) fn pins(status: &PinsStatus) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    if let Some(port) = status.canary_port {
        rows.push(vec![format!("port {port}"), "v2".to_owned(), "config".to_owned()]);
    }
    for pin in &status.pins {
        let rule = match (&pin.source, pin.dscp) {
            (Some(network), _) => format!("source {network}"),
            (None, dscp) => format!("dscp {}", dscp.unwrap_or_default()),
        };
        rows.push(vec![rule, pin.version.clone(), pin.origin.clone()]);
    }
    if rows.is_empty() {
        return format!("{}: no pins; all traffic goes by the weight\n", status.service);
    }
    print::table(&[("TRAFFIC", Align::Left), ("VERSION", Align::Left), ("FROM", Align::Left)], &rows)
}

fn service(service: &ServiceStatus) -> String {
    let endpoint = std::net::SocketAddr::new(service.vip, service.port);
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    line("state", format!("{}: {}", service.state, service.reason));
    if let Some(warning) = &service.warning {
        line("warning", warning.clone());
    }
    if let Some(waits) = &service.waits {
        line("waits for", wait(waits));
    }
    if let Some(judgement) = &service.judgement {
        line("judgement", judgement.sentence.clone());
    }
    line("v2 share", share(service));
    if !service.shards.is_empty() {
        line("shards", shards(service));
    }
    line("schedule", schedule(service));
    if service.pins > 0 {
        line("pins", format!("{} (`grayxdp pins {}`)", service.pins, service.name));
    }
    format!(
        "{}  {} {endpoint}, {}, key {}\n{text}{}",
        service.name,
        service.protocol,
        service.mode,
        service.key,
        table(service)
    )
}

fn wait(WaitStatus { what, time_s, .. }: &WaitStatus) -> String {
    match time_s {
        Some(time) => format!("{what}, in {}", length(*time)),
        None => what.clone(),
    }
}

/// Each shard's weight, and a mark where the kernel has another one; shards of one weight that follow each other together.
fn shards(service: &ServiceStatus) -> String {
    let said = |shard: &ShardStatus| match shard.kernel_weight {
        Some(kernel) if (kernel - shard.weight).abs() > f64::EPSILON => {
            format!("{:.2} % (kernel {kernel:.2} % !)", shard.weight)
        }
        _ => format!("{:.2} %", shard.weight),
    };
    let runs = service.shards.chunk_by(|a, b| said(a) == said(b));
    let run = |run: &[ShardStatus]| match run {
        [first, .., last] => format!("{} … {} {}", first.name, last.name, said(first)),
        [only] => format!("{} {}", only.name, said(only)),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<_>>().join("   ")
}

fn share(service: &ServiceStatus) -> String {
    let kernel = service.kernel_weight.map_or("unreadable".to_owned(), |weight| format!("{weight:.2} %"));
    let measured = service.measured_share.map_or("no new flows".to_owned(), |share| format!("{share:.1} %"));
    let differs = service.kernel_weight.is_none_or(|kernel| (kernel - service.weight).abs() > f64::EPSILON);
    format!(
        "wanted {:.2} %{}   kernel {kernel}{}   measured {measured} (last 10 s)",
        service.weight,
        if service.shards.is_empty() { "" } else { " on average" },
        if differs { " !" } else { "" }
    )
}

fn schedule(service: &ServiceStatus) -> String {
    let plan = &service.schedule;
    let mut text = plan.kind.clone();
    if plan.order == "one-by-one" {
        text.push_str(", shard by shard");
    }
    if let Some(shard) = &plan.turn {
        let _ = write!(text, " (now `{shard}`)");
    }
    if let Some(duration) = plan.duration_s {
        let _ = write!(text, ", {} of {}", length(plan.elapsed_s), length(duration));
    }
    match (plan.next_weight, plan.next_in_s) {
        (Some(weight), Some(wait)) => {
            let _ = write!(text, ", next {weight:.2} % in {}", length(wait));
        }
        _ => text.push_str(", nothing to come by itself"),
    }
    text
}

fn table(service: &ServiceStatus) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut add = |name: String, flows: Flows, counters: Counters| {
        rows.push([name, count(flows.active())].into_iter().chain(cells(counters)).collect());
    };
    for (version, status) in service.versions.iter() {
        add(version.to_owned(), status.flows, status.counters);
        for backend in &status.backends {
            let mut name = format!("  {} weight {}", backend.address, backend.weight);
            if !backend.state.is_empty() && backend.state != "live" {
                let _ = write!(name, ", {}", backend.state);
            }
            if backend.origin == "run-time" && backend.state != "removed" {
                name.push_str(", added");
            }
            add(name, backend.flows, backend.counters);
        }
    }
    let mut columns = vec![("", Align::Left)];
    columns.extend(COLUMNS.map(|name| (name, Align::Right)));
    let table = print::table(&columns, &rows);
    table.lines().map(|line| format!("  {line}\n")).collect()
}

fn cells(counters: Counters) -> [String; 7] {
    [
        count(counters.new_flows),
        count(counters.packets_in),
        bytes(counters.bytes_in),
        count(counters.packets_out),
        bytes(counters.bytes_out),
        count(counters.flow_misses),
        count(counters.untracked_flows),
    ]
}

/// Exact as long as it fits its column.
fn count(number: u64) -> String {
    match number {
        0..1_000_000_000 => number.to_string(),
        _ => scaled(number, 1000.0, ["", "k", "M", "G", "T", "P", "E"], ""),
    }
}

fn bytes(number: u64) -> String {
    match number {
        0..10_000 => format!("{number} B"),
        _ => scaled(number, 1024.0, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"], "B"),
    }
}

fn scaled(number: u64, base: f64, prefixes: [&str; 7], unit: &str) -> String {
    let mut value = number as f64;
    let mut prefix = "";
    for next in prefixes {
        prefix = next;
        // What would round up to the base shows in the next unit.
        if value < base - 0.05 {
            break;
        }
        if next != prefixes[6] {
            value /= base;
        }
    }
    format!("{value:.1} {prefix}{unit}")
}

/// A length as people say it: `3.2 s`, `4 m 10 s`, `2 h 5 m`, `3 d 4 h`.
fn length(seconds: f64) -> String {
    // Never negative; beyond what a Duration holds nobody waits.
    let Ok(length) = std::time::Duration::try_from_secs_f64(seconds) else { return "for ever".to_owned() };
    let whole = length.as_secs();
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} m {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} m", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_short() {
        for (number, as_count, as_bytes) in [
            (0, "0", "0 B"),
            (9_999, "9999", "9999 B"),
            (10_000, "10000", "9.8 KiB"),
            (1_048_575, "1048575", "1.0 MiB"),
            (999_999_999, "999999999", "953.7 MiB"),
            (1_000_000_000, "1.0 G", "953.7 MiB"),
            (u64::MAX, "18.4 E", "16.0 EiB"),
        ] {
            assert_eq!((count(number).as_str(), bytes(number).as_str()), (as_count, as_bytes), "{number}");
        }
    }

    #[test]
    fn lengths_read_as_people_say_them() {
        for (seconds, expected) in [
            (0.0, "0.0 s"),
            (3.21, "3.2 s"),
            (250.0, "4 m 10 s"),
            (7_500.0, "2 h 5 m"),
            (273_600.0, "3 d 4 h"),
            (f64::INFINITY, "for ever"),
        ] {
            assert_eq!(length(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn shards_pins_and_backends_show_where_there_is_something_to_see() {
        let status: ServiceStatus = serde_json::from_str(
            r#"{"name":"web","vip":"203.0.113.10","port":80,"protocol":"tcp","mode":"dsr","key":"source-ip",
            "state":"progressing","reason":"follows the schedule","weight":38.0,"kernel_weight":38.0,"pins":2,
            "shards":[{"name":"0","weight":100.0,"kernel_weight":100.0},{"name":"1","weight":50.0,"kernel_weight":40.0},
            {"name":"2","weight":1.0,"kernel_weight":1.0},{"name":"3","weight":1.0,"kernel_weight":1.0}],
            "measured_share":null,"schedule":{"kind":"linear","order":"one-by-one","turn":"1","elapsed_s":1.0,"duration_s":8.0,
            "next_weight":40.0,"next_in_s":1.0},"versions":{
            "v1":{"new_flows":0,"packets_in":0,"bytes_in":0,"packets_out":0,"bytes_out":0,"flow_misses":0,
            "untracked_flows":0,"backends":[{"address":"10.0.1.10:80","weight":1,"state":"draining","origin":"run-time",
            "new_flows":0,"packets_in":0,"bytes_in":0,"packets_out":0,"bytes_out":0,"flow_misses":0,
            "untracked_flows":0}]},
            "v2":{"new_flows":0,"packets_in":0,"bytes_in":0,"packets_out":0,"bytes_out":0,"flow_misses":0,
            "untracked_flows":0,"backends":[]}}}"#,
        )
        .expect("a status");
        let text = service(&status);
        for line in [
            "  v2 share  wanted 38.00 % on average   kernel 38.00 %   measured no new flows (last 10 s)",
            "  shards    0 100.00 %   1 50.00 % (kernel 40.00 % !)   2 … 3 1.00 %",
            "  schedule  linear, shard by shard (now `1`), 1.0 s of 8.0 s, next 40.00 % in 1.0 s",
            "  pins      2 (`grayxdp pins web`)",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("10.0.1.10:80 weight 1, draining, added "), "{text}");
        assert_eq!(changed(&status, "done"), "web: done\n");
    }

    #[test]
    fn pins_are_listed_with_where_they_come_from() {
        let mut status: PinsStatus = serde_json::from_str(
            r#"{"service":"web","canary_port":8081,"pins":[
            {"source":"198.51.100.0/24","dscp":null,"version":"v2","origin":"config"},
            {"source":null,"dscp":46,"version":"v1","origin":"run-time"}]}"#,
        )
        .expect("pins");
        let expected = "\
TRAFFIC                 VERSION  FROM
port 8081               v2       config
source 198.51.100.0/24  v2       config
dscp 46                 v1       run-time
";
        assert_eq!(pins(&status), expected);
        (status.canary_port, status.pins) = (None, Vec::new());
        assert_eq!(pins(&status), "web: no pins; all traffic goes by the weight\n");
    }

    #[test]
    fn a_status_is_readable_at_night() {
        let status: AgentStatus = serde_json::from_str(
            r#"{"version":"0.1.0","pid":7,"uptime_s":250.0,"interfaces":[{"name":"eth0","mode":"native"}],"services":[
            {"name":"web","vip":"203.0.113.10","port":80,"protocol":"tcp","mode":"nat","key":"source-ip",
            "state":"progressing","reason":"follows the schedule (linear)","weight":20.0,"kernel_weight":10.0,
            "measured_share":9.87,"schedule":{"kind":"linear","elapsed_s":61.5,"duration_s":300.0,"next_weight":30.0,
            "next_in_s":28.5},"versions":{
            "v1":{"new_flows":900,"packets_in":9000,"bytes_in":900000,"packets_out":9000,"bytes_out":123456789,
            "flow_misses":0,"untracked_flows":0,"flows":{"half_open":1,"established":9,"closing":5,"udp":2},
            "backends":[{"address":"10.0.1.10:8080","weight":1,"new_flows":900,
            "packets_in":9000,"bytes_in":900000,"packets_out":9000,"bytes_out":123456789,"flow_misses":0,
            "untracked_flows":0}]},
            "v2":{"new_flows":100,"packets_in":1000,"bytes_in":100000,"packets_out":1000,"bytes_out":9876,
            "flow_misses":1,"untracked_flows":0,"backends":[]}}}]}"#,
        )
        .expect("a status");
        let expected = "\
agent 0.1.0, pid 7, up 4 m 10 s, on eth0 (native)

web  tcp 203.0.113.10:80, nat, key source-ip
  state     progressing: follows the schedule (linear)
  v2 share  wanted 20.00 %   kernel 10.00 % !   measured 9.9 % (last 10 s)
  schedule  linear, 1 m 1 s of 5 m 0 s, next 30.00 % in 28.5 s
                             active  new flows  packets in   bytes in  packets out  bytes out  flow misses  untracked
  v1                             12        900        9000  878.9 KiB         9000  117.7 MiB            0          0
    10.0.1.10:8080 weight 1       0        900        9000  878.9 KiB         9000  117.7 MiB            0          0
  v2                              0        100        1000   97.7 KiB         1000     9876 B            1          0
";
        assert_eq!(super::status(&status), expected);

        let mut in_danger = status.services[0].clone();
        in_danger.warning = Some("this is done in the kernel, but not stored".to_owned());
        let change = change(&status.services[0], &in_danger);
        let line = "warning: this is done in the kernel, but not stored";
        assert_eq!(change.lines().collect::<Vec<_>>(), ["web: v2 20.00 % (progressing)", line]);
        assert!(service(&in_danger).contains("\n  warning   this is done in the kernel, but not stored\n"));
    }
}
