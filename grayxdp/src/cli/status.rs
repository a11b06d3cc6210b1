//! The status as text: one block a service, for eyes that are tired.

use std::fmt::Write as _;

use super::print::{self, Align};
use crate::agent::shapes::{AgentStatus, Counters, ServiceStatus};

/// Names of the columns of counters, as [`cells`] fills them.
const COLUMNS: [&str; 7] =
    ["new flows", "packets in", "bytes in", "packets out", "bytes out", "flow misses", "untracked"];

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
    let ServiceStatus { name, weight, state, warning, .. } = after;
    let mut text = if (before.weight - weight).abs() < f64::EPSILON {
        format!("{name}: v2 {weight:.2} % ({state})\n")
    } else {
        format!("{name}: v2 {:.2} % → {weight:.2} % ({state})\n", before.weight)
    };
    if let Some(warning) = warning {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
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
    line("v2 share", share(service));
    line("schedule", schedule(service));
    format!(
        "{}  {} {endpoint}, {}, key {}\n{text}{}",
        service.name,
        service.protocol,
        service.mode,
        service.key,
        table(service)
    )
}

fn share(service: &ServiceStatus) -> String {
    let kernel = service.kernel_weight.map_or("unreadable".to_owned(), |weight| format!("{weight:.2} %"));
    let measured = service.measured_share.map_or("no new flows".to_owned(), |share| format!("{share:.1} %"));
    let differs = service.kernel_weight.is_none_or(|kernel| (kernel - service.weight).abs() > f64::EPSILON);
    format!(
        "wanted {:.2} %   kernel {kernel}{}   measured {measured} (last 10 s)",
        service.weight,
        if differs { " !" } else { "" }
    )
}

fn schedule(service: &ServiceStatus) -> String {
    let plan = &service.schedule;
    let mut text = plan.kind.clone();
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
    let mut add = |name: String, counters: Counters| {
        rows.push(std::iter::once(name).chain(cells(counters)).collect());
    };
    for (version, status) in service.versions.iter() {
        add(version.to_owned(), status.counters);
        for backend in &status.backends {
            add(format!("  {} weight {}", backend.address, backend.weight), backend.counters);
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
    fn a_status_is_readable_at_night() {
        let status: AgentStatus = serde_json::from_str(
            r#"{"version":"0.1.0","pid":7,"uptime_s":250.0,"interfaces":[{"name":"eth0","mode":"native"}],"services":[
            {"name":"web","vip":"203.0.113.10","port":80,"protocol":"tcp","mode":"nat","key":"source-ip",
            "state":"progressing","reason":"follows the schedule (linear)","weight":20.0,"kernel_weight":10.0,
            "measured_share":9.87,"schedule":{"kind":"linear","elapsed_s":61.5,"duration_s":300.0,"next_weight":30.0,
            "next_in_s":28.5},"versions":{
            "v1":{"new_flows":900,"packets_in":9000,"bytes_in":900000,"packets_out":9000,"bytes_out":123456789,
            "flow_misses":0,"untracked_flows":0,"backends":[{"address":"10.0.1.10:8080","weight":1,"new_flows":900,
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
                             new flows  packets in   bytes in  packets out  bytes out  flow misses  untracked
  v1                               900        9000  878.9 KiB         9000  117.7 MiB            0          0
    10.0.1.10:8080 weight 1        900        9000  878.9 KiB         9000  117.7 MiB            0          0
  v2                               100        1000   97.7 KiB         1000     9876 B            1          0
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
